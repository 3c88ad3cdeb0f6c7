/* What the three bench programs share: clock, dying, loopback sockets, response heads. Header only: each program is one compilation. */
#ifndef BENCH_LOOPBACK_H
#define BENCH_LOOPBACK_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ULL
#define HEAD_MAX_BYTES 4096 /* a response head longer than this is taken for garbage; real ones are under 1 KiB */

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "%s%s\n", errno ? ": " : "", errno ? strerror(errno) : "");
    exit(2);
}

static inline double number(const char *name, const char *text, double low, double high) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (errno || end == text || *end || !(value >= low && value <= high)) die("%s: %s is not in %g..%g", name, text, low, high);
    return value;
}

/* Memory that the children of a fork share with their parent, zeroed. */
static inline void *shared_bytes(size_t size_bytes) {
    void *memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) die("mmap of %zu bytes", size_bytes);
    return memory;
}

static inline void raise_fd_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) die("getrlimit");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit)) die("setrlimit");
}

/* In a fresh child: ends with the parent, however that one ends. */
static inline void end_with_parent(pid_t parent) {
    if (prctl(PR_SET_PDEATHSIG, SIGKILL)) die("prctl");
    if (getppid() != parent) _exit(0);
}

/* CPU (user+sys) of a process and all its threads, in ns: exact, unlike the clock ticks of /proc/PID/stat. */
static inline uint64_t process_cpu_ns(pid_t pid) {
    clockid_t clock;
    struct timespec t;
    if (clock_getcpuclockid(pid, &clock) || clock_gettime(clock, &t)) return 0;
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static inline struct sockaddr_in loopback(uint32_t host_number, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl((127u << 24) + host_number);
    return address;
}

/* A non-blocking connect to 127.0.0.1:port from 127.0.0.(2 + index % sources): loopback has 28,232 ports per source address.
   Returns the fd, or -1 with errno. */
static inline int connect_loopback(int port, unsigned index, unsigned sources) {
    static const int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -1;
    struct sockaddr_in from = loopback(2 + index % sources, 0), to = loopback(1, port);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on); /* the port is chosen by connect(): unique per pair */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&from, sizeof from) == 0 &&
        (connect(fd, (struct sockaddr *)&to, sizeof to) == 0 || errno == EINPROGRESS))
        return fd;
    int why = errno;
    close(fd);
    errno = why;
    return -1;
}

/* Length of the response head in a buffer, its blank line included; 0 while it is not complete. */
static inline size_t head_length(const char *bytes, size_t length) {
    const char *end = memmem(bytes, length, "\r\n\r\n", 4);
    return end ? (size_t)(end - bytes) + 4 : 0;
}

/* "HTTP/1.x 200" or "ICY 200" */
static inline bool head_is_ok(const char *head, size_t length) {
    const char *space = memchr(head, ' ', length);
    return space && length - (size_t)(space - head) > 4 && memcmp(space, " 200", 4) == 0;
}

#endif
