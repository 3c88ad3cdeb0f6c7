/* The C floor: the least that a fan-out over TCP can cost. Accepts listeners, answers a head, then makes one send() per listener and interval
   from one buffer, listeners spread evenly over 50 phases of the interval, in 2 processes on one SO_REUSEPORT port: the shape of
   StreamMachine's workers with nothing else in it (no ring, no lag, no metadata, no counters per listener).

   stdout: "listening", "ready" once all are accepted; a line "report" on stdin is answered by one line of JSON with the totals so far:
   CPU (user+sys) of the sending processes in ns, sends, bytes, sends that the kernel took in part or not at all, listeners lost.
   Ends at the end of stdin. */
#define _GNU_SOURCE
#include "loopback.h"

#include <getopt.h>
#include <poll.h>
#include <stdatomic.h>

#define PHASES 50
#define PROCESSES_MAX 64
#define BACKLOG 4096
#define SNDBUF_BYTES (128 * 1024) /* as the workers of StreamMachine: twice the largest send measured here would be 64 KiB */
#define REQUEST_WAIT_MS 1000      /* the load generators send it right after connecting */
#define PARENT_POLL_MS 20

static const char HEAD[] = "HTTP/1.0 200 OK\r\nContent-Type: audio/mpeg\r\nicy-name: floor\r\nCache-Control: no-cache\r\n\r\n";

struct totals {
    _Atomic uint64_t accepted, sends, bytes, short_sends, lost;
};

struct bucket {
    int *fds;
    size_t count, capacity;
};

static struct {
    int port, processes;
    unsigned listeners; /* 0: accept for ever */
    double interval_s, bytes_per_s, burst_s;
} options = {.processes = 2, .interval_s = 1.0, .bytes_per_s = 16000, .burst_s = 4};

static struct totals *totals;
static struct bucket buckets[PHASES];
static unsigned next_bucket;
static char *audio;

static int listening_socket(void) {
    static const int on = 1, sndbuf_bytes = SNDBUF_BYTES;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = loopback(1, options.port);
    if (fd < 0) die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &sndbuf_bytes, sizeof sndbuf_bytes);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, BACKLOG)) die("listening on port %d", options.port);
    return fd;
}

static void put(struct bucket *bucket, int fd) {
    if (bucket->count == bucket->capacity) {
        bucket->capacity = bucket->capacity ? bucket->capacity * 2 : 64;
        bucket->fds = realloc(bucket->fds, bucket->capacity * sizeof *bucket->fds);
        if (!bucket->fds) die("realloc");
    }
    bucket->fds[bucket->count++] = fd;
}

/* Reads the request (which is not looked at), answers the head and the burst, and gives the listener its phase. */
static void welcome(int fd) {
    char request[HEAD_MAX_BYTES];
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    size_t burst_bytes = (size_t)(options.burst_s * options.bytes_per_s);
    ssize_t got = recv(fd, request, sizeof request, 0);
    if (got < 0 && errno == EAGAIN && poll(&wait, 1, REQUEST_WAIT_MS) == 1) got = recv(fd, request, sizeof request, 0);
    if (got <= 0 || send(fd, HEAD, sizeof HEAD - 1, MSG_NOSIGNAL | MSG_MORE) < 0) {
        close(fd);
        return;
    }
    send(fd, audio, burst_bytes, MSG_NOSIGNAL);
    put(&buckets[next_bucket++ % PHASES], fd);
    totals->accepted++;
}

static void accept_all(int listening) {
    int fd;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) welcome(fd);
}

static void send_bucket(struct bucket *bucket, size_t bytes) {
    uint64_t sent_bytes = 0, short_sends = 0;
    size_t kept = 0;
    for (size_t i = 0; i < bucket->count; i++) {
        ssize_t sent = send(bucket->fds[i], audio, bytes, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) {
            close(bucket->fds[i]);
            totals->lost++;
            continue;
        }
        bucket->fds[kept++] = bucket->fds[i];
        sent_bytes += sent > 0 ? (uint64_t)sent : 0;
        short_sends += sent < (ssize_t)bytes;
    }
    totals->sends += bucket->count;
    totals->bytes += sent_bytes;
    totals->short_sends += short_sends;
    bucket->count = kept;
}

/* Until the tick is due: accept while listeners are still to come, else sleep. */
static void wait_until(uint64_t due_ns, int listening) {
    for (uint64_t now = now_ns(); now < due_ns; now = now_ns()) {
        if (options.listeners && totals->accepted >= options.listeners) {
            struct timespec t = {.tv_sec = (time_t)(due_ns / NS_PER_S), .tv_nsec = (long)(due_ns % NS_PER_S)};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
        } else {
            struct pollfd wait = {.fd = listening, .events = POLLIN};
            struct timespec left = {.tv_sec = (time_t)((due_ns - now) / NS_PER_S), .tv_nsec = (long)((due_ns - now) % NS_PER_S)};
            if (ppoll(&wait, 1, &left, NULL) == 1) accept_all(listening);
        }
    }
}

static void serve(int listening) {
    uint64_t step_ns = (uint64_t)(options.interval_s * 1e9 / PHASES), due_ns = now_ns();
    size_t bytes = (size_t)(options.interval_s * options.bytes_per_s);
    for (unsigned tick = 0;; tick++, due_ns += step_ns) {
        wait_until(due_ns, listening);
        if (now_ns() - due_ns > step_ns * PHASES) due_ns = now_ns(); /* was stopped: do not make up for it */
        send_bucket(&buckets[tick % PHASES], bytes);
    }
}

static void report(const pid_t *pids) {
    uint64_t cpu_ns = 0;
    for (int i = 0; i < options.processes; i++) cpu_ns += process_cpu_ns(pids[i]);
    printf("{\"cpu_ns\": %lu, \"accepted\": %lu, \"sends\": %lu, \"bytes\": %lu, \"short_sends\": %lu, \"lost\": %lu}\n", cpu_ns,
           totals->accepted, totals->sends, totals->bytes, totals->short_sends, totals->lost);
}

static void obey(const pid_t *pids) {
    char line[64];
    bool announced = options.listeners == 0;
    setvbuf(stdin, NULL, _IONBF, 0); /* poll() must see what is left */
    for (;;) {
        struct pollfd wait = {.fd = STDIN_FILENO, .events = POLLIN};
        int ready = poll(&wait, 1, announced ? -1 : PARENT_POLL_MS);
        if (!announced && totals->accepted >= options.listeners) {
            announced = true;
            puts("ready");
        }
        if (ready <= 0) continue;
        if (!fgets(line, sizeof line, stdin)) return;
        if (strcmp(line, "report\n") == 0) report(pids);
    }
}

static void read_options(int argc, char **argv) {
    static const struct option names[] = {{"port", 1, 0, 'p'},      {"listeners", 1, 0, 'n'},       {"processes", 1, 0, 'w'},
                                          {"interval", 1, 0, 'i'},  {"bytes-per-second", 1, 0, 'b'}, {"burst", 1, 0, 'u'},
                                          {0}};
    int name;
    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) switch (name) {
            case 'p': options.port = (int)number("port", optarg, 1, 65535); break;
            case 'n': options.listeners = (unsigned)number("listeners", optarg, 0, 1e6); break;
            case 'w': options.processes = (int)number("processes", optarg, 1, PROCESSES_MAX); break;
            case 'i': options.interval_s = number("interval", optarg, 0.02, 60); break;
            case 'b': options.bytes_per_s = number("bytes-per-second", optarg, 1, 1e7); break;
            case 'u': options.burst_s = number("burst", optarg, 0, 60); break;
            default:
                die("usage: floor --port P [--listeners N] [--processes N] [--interval S] [--bytes-per-second B] [--burst S]");
        }
    if (!options.port || optind != argc) die("floor: --port is needed, and nothing but options");
}

int main(int argc, char **argv) {
    pid_t pids[PROCESSES_MAX], self = getpid();
    int listening[PROCESSES_MAX];
    read_options(argc, argv);
    raise_fd_limit();
    setvbuf(stdout, NULL, _IOLBF, 0);
    totals = shared_bytes(sizeof *totals);
    double buffer_s = options.burst_s > options.interval_s ? options.burst_s : options.interval_s;
    size_t audio_bytes = (size_t)(buffer_s * options.bytes_per_s) + 1;
    audio = shared_bytes(audio_bytes);
    memset(audio, 0x55, audio_bytes); /* real pages: an untouched mapping would be one page of zeros, always in the cache */
    for (int i = 0; i < options.processes; i++) listening[i] = listening_socket();
    for (int i = 0; i < options.processes; i++) {
        if ((pids[i] = fork()) < 0) die("fork");
        if (pids[i] == 0) {
            end_with_parent(self);
            for (int k = 0; k < options.processes; k++)
                if (k != i) close(listening[k]);
            serve(listening[i]);
        }
    }
    for (int i = 0; i < options.processes; i++) close(listening[i]);
    puts("listening");
    obey(pids);
    for (int i = 0; i < options.processes; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    return 0;
}
