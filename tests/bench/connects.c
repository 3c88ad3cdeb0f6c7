/* Connect, send a request, wait for the first audio byte, close: how fast, and how long from connect() to that byte.

   The client closes first. --close says how:
     plain (default)  close(). As audio is still unread then, Linux answers what comes later with RST: what a player that stops does.
     reset            SO_LINGER 0: RST at once, no TIME_WAIT on this side whatever was unread.
     drain            shutdown(SHUT_WR), read until the server ends too, close(): no RST; the server must notice the end of input.
   Without --rate a new connection starts as soon as one of --concurrency ends (the figure is the rate). With --rate they start at that
   rate, and the time runs from the moment each was due, so a server that stalls cannot hide it.

   stdout: one line of JSON at the end; connections that ended within --warmup are not counted. */
#define _GNU_SOURCE
#include "loopback.h"

#include <getopt.h>
#include <math.h>
#include <sys/epoll.h>

#define EVENTS 256
#define TIMEOUT_NS (5 * NS_PER_S)  /* a connection slower than this counts as timed out */
#define SCAN_NS (NS_PER_S / 10)
#define EPOLL_WAIT_MS 1
#define RATE_MAX 50000.0           /* connections a second that the table of times has room for */

enum step { FREE, CONNECTING, WAITING, DRAINING };
enum close_mode { PLAIN, RESET, DRAIN };

struct slot {
    int fd;
    enum step step;
    uint64_t due_ns;
    size_t head_bytes, head_length;
    char head[HEAD_MAX_BYTES];
};

static struct {
    int port;
    unsigned concurrency, sources;
    double seconds, warmup_s, rate;
    enum close_mode close;
    const char *path, *close_name;
} options = {.concurrency = 64, .sources = 8, .seconds = 10, .warmup_s = 1, .path = "/bench", .close_name = "plain"};

static struct slot *slots;
static unsigned *free_slots, free_count, started;
static int epoll_fd;
static char request[512];
static size_t request_bytes;
static uint64_t count_from_ns;
static uint32_t *times_us;
static size_t times_count, times_capacity;
static struct {
    unsigned long connect, reset, timeout, status, late_starts;
} errors;

static void release(struct slot *s) {
    static const struct linger now = {.l_onoff = 1, .l_linger = 0};
    if (options.close == RESET) setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close(s->fd);
    s->step = FREE;
    free_slots[free_count++] = (unsigned)(s - slots);
}

static void fail(struct slot *s, unsigned long *counter) {
    if (now_ns() >= count_from_ns) ++*counter;
    release(s);
}

static void send_request(struct slot *s) {
    ssize_t sent = send(s->fd, request, request_bytes, MSG_NOSIGNAL);
    if (sent == (ssize_t)request_bytes)
        s->step = WAITING;
    else if (sent >= 0 || (errno != EAGAIN && errno != ENOTCONN && errno != EINPROGRESS))
        fail(s, &errors.connect);
}

static void start_one(uint64_t due_ns) {
    struct slot *s = &slots[free_slots[--free_count]];
    s->due_ns = due_ns;
    s->head_bytes = s->head_length = 0;
    s->fd = connect_loopback(options.port, started++, options.sources);
    if (s->fd < 0) {
        errors.connect += now_ns() >= count_from_ns;
        free_count++;
        return;
    }
    s->step = CONNECTING;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = s};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, s->fd, &event)) die("epoll_ctl");
    send_request(s); /* on loopback the handshake is over by now, unless the backlog is full */
}

static void first_byte(struct slot *s) {
    uint64_t now = now_ns();
    if (now >= count_from_ns && times_count < times_capacity) times_us[times_count++] = (uint32_t)((now - s->due_ns) / 1000);
    if (options.close != DRAIN) {
        release(s);
        return;
    }
    s->step = DRAINING;
    shutdown(s->fd, SHUT_WR);
}

static void drain(struct slot *s) {
    ssize_t got;
    while ((got = recv(s->fd, NULL, 1 << 20, MSG_TRUNC)) > 0) {}
    if (got == 0)
        release(s);
    else if (errno != EAGAIN)
        fail(s, &errors.reset);
}

static void read_answer(struct slot *s) {
    for (;;) {
        ssize_t got = recv(s->fd, s->head + s->head_bytes, sizeof s->head - s->head_bytes, 0);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            fail(s, &errors.reset);
            return;
        }
        s->head_bytes += (size_t)got;
        s->head_length = head_length(s->head, s->head_bytes);
        if ((s->head_length && !head_is_ok(s->head, s->head_length)) || (!s->head_length && s->head_bytes == sizeof s->head)) {
            fail(s, &errors.status);
            return;
        }
        if (s->head_length && s->head_bytes > s->head_length) {
            first_byte(s);
            if (s->step == DRAINING) drain(s);
            return;
        }
    }
}

static void handle(struct slot *s) {
    if (s->step == CONNECTING) send_request(s);
    if (s->step == WAITING) read_answer(s);
    else if (s->step == DRAINING) drain(s);
}

static void end_slow_ones(uint64_t now) {
    for (unsigned i = 0; i < options.concurrency; i++)
        if (slots[i].step != FREE && now > slots[i].due_ns + TIMEOUT_NS) fail(&slots[i], &errors.timeout);
}

/* With a rate: all that are due by now, as far as there are free slots. Without: as many as there are free slots. */
static void start_due(uint64_t now, uint64_t begin_ns) {
    if (options.rate <= 0) {
        for (unsigned n = free_count; n; n--) start_one(now_ns());
        return;
    }
    for (;;) {
        uint64_t due_ns = begin_ns + (uint64_t)(started * 1e9 / options.rate);
        if (due_ns > now) return;
        if (!free_count) {
            errors.late_starts += now >= count_from_ns;
            return;
        }
        start_one(due_ns);
    }
}

static double run(void) {
    struct epoll_event events[EVENTS];
    uint64_t begin_ns = now_ns(), now = begin_ns, scan_ns = begin_ns;
    count_from_ns = begin_ns + (uint64_t)(options.warmup_s * 1e9);
    uint64_t end_ns = count_from_ns + (uint64_t)(options.seconds * 1e9);
    for (; now < end_ns; now = now_ns()) {
        start_due(now, begin_ns);
        int ready = epoll_wait(epoll_fd, events, EVENTS, EPOLL_WAIT_MS);
        for (int i = 0; i < ready; i++) handle(events[i].data.ptr);
        if (now - scan_ns > SCAN_NS) {
            end_slow_ones(now);
            scan_ns = now;
        }
    }
    return (now - count_from_ns) / 1e9;
}

static int ascending(const void *a, const void *b) {
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;
    return (left > right) - (left < right);
}

/* Nearest rank, in ms. */
static double percentile_ms(double share) {
    if (!times_count) return 0;
    size_t rank = (size_t)ceil(share * (double)times_count);
    return times_us[rank ? rank - 1 : 0] / 1e3;
}

static void print_result(double seconds) {
    qsort(times_us, times_count, sizeof *times_us, ascending);
    printf("{\"close\": \"%s\", \"seconds\": %.3f, \"connects\": %zu, \"connects_per_s\": %.1f, ", options.close_name, seconds, times_count,
           times_count / seconds);
    printf("\"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, ", percentile_ms(0.5), percentile_ms(0.99), percentile_ms(1));
    printf("\"connect_errors\": %lu, \"resets\": %lu, \"timeouts\": %lu, \"bad_status\": %lu, \"late_starts\": %lu, \"cpu_s\": %.3f}\n",
           errors.connect, errors.reset, errors.timeout, errors.status, errors.late_starts, process_cpu_ns(getpid()) / 1e9);
}

static enum close_mode close_mode(const char *name) {
    static const char *const names[] = {"plain", "reset", "drain"};
    for (int mode = PLAIN; mode <= DRAIN; mode++)
        if (strcmp(name, names[mode]) == 0) return (enum close_mode)mode;
    die("--close is plain, reset or drain, not %s", name);
}

static void read_options(int argc, char **argv) {
    static const struct option names[] = {{"port", 1, 0, 'p'},    {"path", 1, 0, 'f'},   {"concurrency", 1, 0, 'c'},
                                          {"sources", 1, 0, 's'}, {"seconds", 1, 0, 't'}, {"warmup", 1, 0, 'w'},
                                          {"rate", 1, 0, 'r'},    {"close", 1, 0, 'x'},  {0}};
    int name;
    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) switch (name) {
            case 'p': options.port = (int)number("port", optarg, 1, 65535); break;
            case 'f': options.path = optarg; break;
            case 'c': options.concurrency = (unsigned)number("concurrency", optarg, 1, 10000); break;
            case 's': options.sources = (unsigned)number("sources", optarg, 1, 250); break;
            case 't': options.seconds = number("seconds", optarg, 0.1, 600); break;
            case 'w': options.warmup_s = number("warmup", optarg, 0, 60); break;
            case 'r': options.rate = number("rate", optarg, 0, RATE_MAX); break;
            case 'x':
                options.close = close_mode(optarg);
                options.close_name = optarg;
                break;
            default:
                die("usage: connects --port P [--path /P] [--concurrency N] [--sources N] [--seconds S] [--warmup S] [--rate PER_S]"
                    " [--close plain|reset|drain]");
        }
    if (!options.port || optind != argc || strlen(options.path) > 100) die("connects: --port is needed, a short path, and only options");
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    raise_fd_limit();
    times_capacity = (size_t)(options.seconds * RATE_MAX) + 1;
    times_us = malloc(times_capacity * sizeof *times_us);
    slots = calloc(options.concurrency, sizeof *slots);
    free_slots = calloc(options.concurrency, sizeof *free_slots);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!times_us || !slots || !free_slots || epoll_fd < 0) die("starting");
    for (unsigned i = 0; i < options.concurrency; i++) free_slots[free_count++] = i;
    request_bytes = (size_t)snprintf(request, sizeof request,
                                     "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: bench-connect/1\r\nAccept: */*\r\n"
                                     "Accept-Encoding: identity\r\nConnection: close\r\n\r\n",
                                     options.path, options.port);
    print_result(run());
    return 0;
}
