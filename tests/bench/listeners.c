/* Thousands of listeners that read and discard, cheap enough to share two cores with the server under test: one recv() per arrival,
   MSG_TRUNC (discarded in the kernel, not copied), except for the few that --verify compares byte for byte with the file the encoder loops.

   stdout, one line of JSON each:
     {"event": "playing", ...}  once every listener has had its first audio byte or failed, or --ramp-timeout is over
     {"event": "window", ...}   the answer to "end": what each listener got since "begin"
   stdin: "begin", "end"; its end, or "quit", ends the program.

   A gap is the time between two reads of one listener that found audio, so this program's own delays count too, against the server. */
#define _GNU_SOURCE
#include "loopback.h"

#include <getopt.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/stat.h>

#define PROCESSES_MAX 16
#define EVENTS 512
#define EPOLL_WAIT_MS 5           /* how late a change of the ramp may be seen */
#define PARENT_POLL_MS 20
#define DISCARD_BYTES (4u << 20)   /* more than a receive buffer holds */
#define VERIFY_READ_BYTES 65536
#define LOCATE_BYTES 2048          /* five frames of noise occur once in the file */
#define GAP_BIN_NS (NS_PER_S / 10)
#define GAP_BINS 200               /* 20 s; the last bin holds all longer ones */

enum state { IDLE, OPENING, PLAYING, FAILED, DROPPED };

/* Shared with the parent, written by the one child that owns the listener. */
struct record {
    _Atomic uint64_t body_bytes, last_ns, longest_gap_ns, arrivals, mismatches, compared_bytes;
    _Atomic int state;
};

struct shared {
    _Atomic int measuring;
    _Atomic uint64_t no_fd; /* sockets that could not be made or connected at all */
    struct record records[];
};

/* Of a listener whose bytes are compared: icy blocks are taken out, then the position in the looped file follows the bytes. */
struct check {
    size_t located_bytes, file_pos; /* file_pos counts once located_bytes == LOCATE_BYTES */
    long meta_interval, until_meta, meta_left;
    unsigned char start[LOCATE_BYTES];
};

struct listener {
    int fd;
    unsigned number;
    uint64_t opened_ns;
    char *head; /* while the response head is incomplete */
    size_t head_bytes;
    struct check *check;
    struct record *record;
};

static struct {
    int port, processes;
    unsigned count, concurrency, sources, verify;
    double icy_percent, offset_min_s, offset_max_s, ramp_timeout_s, ramp_rate;
    const char *path, *verify_file;
} options = {.processes = 1, .count = 100, .concurrency = 64, .sources = 4, .ramp_timeout_s = 60, .ramp_rate = 1e6, .path = "/bench"};

static struct shared *shared;
static unsigned char *file; /* twice, so that any LOCATE_BYTES of the loop are in one piece */
static size_t file_bytes;
static int epoll_fd;
static unsigned opening; /* of this process */

/* ---- comparing ---- */

static void compare(struct listener *l, const unsigned char *bytes, size_t length) {
    struct check *c = l->check;
    while (length && c->located_bytes < LOCATE_BYTES) {
        c->start[c->located_bytes++] = *bytes++;
        length--;
        if (c->located_bytes < LOCATE_BYTES) continue;
        unsigned char *at = memmem(file, file_bytes + LOCATE_BYTES, c->start, LOCATE_BYTES);
        if (!at) { /* not the encoder's bytes: say so once per LOCATE_BYTES and look again */
            l->record->mismatches++;
            c->located_bytes = 0;
        } else
            c->file_pos = ((size_t)(at - file) + LOCATE_BYTES) % file_bytes;
    }
    while (length) {
        size_t piece = file_bytes - c->file_pos < length ? file_bytes - c->file_pos : length;
        if (memcmp(file + c->file_pos, bytes, piece) != 0) {
            l->record->mismatches++;
            c->located_bytes = 0;
            return;
        }
        c->file_pos = (c->file_pos + piece) % file_bytes;
        l->record->compared_bytes += piece;
        bytes += piece;
        length -= piece;
    }
}

static void take_out_blocks(struct listener *l, const unsigned char *bytes, size_t length) {
    struct check *c = l->check;
    while (length) {
        size_t piece = length;
        if (c->meta_interval == 0) {
            compare(l, bytes, length);
        } else if (c->meta_left > 0) {
            if ((size_t)c->meta_left < piece) piece = (size_t)c->meta_left;
            c->meta_left -= (long)piece;
        } else if (c->until_meta == 0) {
            piece = 1;
            c->meta_left = 16L * bytes[0];
            c->until_meta = c->meta_interval;
        } else {
            if ((size_t)c->until_meta < piece) piece = (size_t)c->until_meta;
            compare(l, bytes, piece);
            c->until_meta -= (long)piece;
        }
        bytes += piece;
        length -= piece;
    }
}

static void load_file(void) {
    struct stat status;
    int fd = open(options.verify_file, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status)) die("%s", options.verify_file);
    file_bytes = (size_t)status.st_size;
    file = malloc(2 * file_bytes);
    if (!file || file_bytes < LOCATE_BYTES || read(fd, file, file_bytes) != status.st_size) die("reading %s", options.verify_file);
    memcpy(file + file_bytes, file, file_bytes);
    close(fd);
}

/* ---- one listener ---- */

static bool wants_icy(unsigned number) {
    return (unsigned)((number + 1) * options.icy_percent / 100) > (unsigned)(number * options.icy_percent / 100);
}

static size_t write_request(unsigned number, char *buffer, size_t size_bytes) {
    char query[64] = "";
    double share = options.count > 1 ? (double)number / (options.count - 1) : 0;
    double offset_s = options.offset_min_s + (options.offset_max_s - options.offset_min_s) * share;
    if (options.offset_max_s > 0) snprintf(query, sizeof query, "?offset=%.0f", offset_s);
    int length = snprintf(buffer, size_bytes,
                          "GET %s%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: bench-listener/1\r\nAccept: */*\r\n%sConnection: close\r\n\r\n",
                          options.path, query, options.port, wants_icy(number) ? "Icy-MetaData: 1\r\n" : "");
    return (size_t)length;
}

static void leave(struct listener *l, enum state state) {
    opening -= l->record->state == OPENING;
    l->record->state = state;
    close(l->fd);
    free(l->head);
    free(l->check);
    l->head = NULL;
    l->check = NULL;
    l->fd = -1;
}

static void open_listener(struct listener *l) {
    l->fd = connect_loopback(options.port, l->number, options.sources);
    l->opened_ns = now_ns();
    if (l->fd < 0) {
        shared->no_fd++;
        l->record->state = FAILED;
        return;
    }
    l->head = malloc(HEAD_MAX_BYTES);
    if (options.verify > 0 && l->number % (1 + (options.count - 1) / options.verify) == 0) l->check = calloc(1, sizeof *l->check);
    if (!l->head) die("malloc");
    l->record->state = OPENING;
    opening++;
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = l};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, l->fd, &event)) die("epoll_ctl");
}

static void send_request(struct listener *l) {
    char request[512];
    size_t length = write_request(l->number, request, sizeof request);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = l};
    if (send(l->fd, request, length, MSG_NOSIGNAL) != (ssize_t)length) {
        leave(l, FAILED);
        return;
    }
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, l->fd, &event)) die("epoll_ctl");
}

static void arrived(struct listener *l, size_t bytes) {
    uint64_t now = now_ns();
    struct record *r = l->record;
    if (shared->measuring) {
        if (now - r->last_ns > r->longest_gap_ns) r->longest_gap_ns = now - r->last_ns;
        r->arrivals++;
    }
    r->last_ns = now;
    r->body_bytes += bytes;
}

/* The head, and with it perhaps the first audio. */
static void read_head(struct listener *l) {
    ssize_t got = recv(l->fd, l->head + l->head_bytes, HEAD_MAX_BYTES - 1 - l->head_bytes, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        leave(l, FAILED);
        return;
    }
    l->head_bytes += (size_t)got;
    l->head[l->head_bytes] = 0;
    size_t length = head_length(l->head, l->head_bytes);
    if ((length && !head_is_ok(l->head, length)) || (!length && l->head_bytes == HEAD_MAX_BYTES - 1)) {
        leave(l, FAILED);
        return;
    }
    if (!length || l->head_bytes == length) return; /* a player plays at the first audio byte, not at the head */
    l->record->last_ns = now_ns();
    arrived(l, l->head_bytes - length);
    if (l->check) {
        char *interval = strcasestr(l->head, "\nicy-metaint:");
        l->check->meta_interval = l->check->until_meta = interval && interval < l->head + length ? strtol(interval + 13, NULL, 10) : 0;
        take_out_blocks(l, (unsigned char *)l->head + length, l->head_bytes - length);
    }
    free(l->head);
    l->head = NULL;
    l->record->state = PLAYING;
    opening--;
}

static void read_audio(struct listener *l) {
    static unsigned char buffer[VERIFY_READ_BYTES];
    ssize_t got = l->check ? recv(l->fd, buffer, sizeof buffer, 0) : recv(l->fd, NULL, DISCARD_BYTES, MSG_TRUNC);
    if (got > 0) {
        arrived(l, (size_t)got);
        if (l->check) take_out_blocks(l, buffer, (size_t)got);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR))
        leave(l, DROPPED);
}

static void handle(struct listener *l, uint32_t events) {
    if (l->fd < 0) return;
    if (!(events & EPOLLIN) && (events & (EPOLLERR | EPOLLHUP)))
        leave(l, l->record->state == PLAYING ? DROPPED : FAILED);
    else if (events & EPOLLOUT)
        send_request(l);
    else if (l->head)
        read_head(l);
    else
        read_audio(l);
}

/* ---- one process ---- */

/* How many of this process's listeners may have been opened by now. */
static unsigned allowed(unsigned mine, uint64_t start_ns) {
    double by_rate = (now_ns() - start_ns) / 1e9 * options.ramp_rate / options.processes + 1;
    return by_rate < mine ? (unsigned)by_rate : mine;
}

/* Listeners number `first`, `first + processes`, ... */
static void listen_all(unsigned first) {
    unsigned mine = (options.count - first + (unsigned)options.processes - 1) / (unsigned)options.processes, opened = 0;
    unsigned concurrency = options.concurrency / (unsigned)options.processes;
    struct listener *listeners = calloc(mine + 1, sizeof *listeners);
    struct epoll_event events[EVENTS];
    uint64_t start_ns = now_ns();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0 || !listeners) die("starting");
    for (;;) {
        for (unsigned limit = allowed(mine, start_ns); opened < limit && opening < (concurrency ? concurrency : 1); opened++) {
            listeners[opened].number = first + opened * (unsigned)options.processes;
            listeners[opened].record = &shared->records[listeners[opened].number];
            open_listener(&listeners[opened]);
        }
        int ready = epoll_wait(epoll_fd, events, EVENTS, EPOLL_WAIT_MS);
        for (int i = 0; i < ready; i++) handle(events[i].data.ptr, events[i].events);
    }
}

/* ---- the parent: states, windows, words ---- */

static unsigned count_of(enum state state) {
    unsigned found = 0;
    for (unsigned i = 0; i < options.count; i++) found += shared->records[i].state == (int)state;
    return found;
}

static void print_playing(double elapsed_s) {
    printf("{\"event\": \"playing\", \"listeners\": %u, \"playing\": %u, \"failed\": %u, \"dropped\": %u, \"ramp_s\": %.3f}\n", options.count,
           count_of(PLAYING), count_of(FAILED), count_of(DROPPED), elapsed_s);
}

static uint64_t *begin_window(uint64_t *bytes_at_begin) {
    for (unsigned i = 0; i < options.count; i++) {
        shared->records[i].longest_gap_ns = shared->records[i].arrivals = 0;
        bytes_at_begin[i] = shared->records[i].body_bytes;
    }
    shared->measuring = 1;
    return bytes_at_begin;
}

static int ascending(const void *a, const void *b) {
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
    return (left > right) - (left < right);
}

static void print_gaps(uint64_t *gaps_ns, unsigned n) {
    unsigned bins[GAP_BINS] = {0};
    const char *comma = "";
    qsort(gaps_ns, n, sizeof *gaps_ns, ascending);
    for (unsigned i = 0; i < n; i++) bins[gaps_ns[i] / GAP_BIN_NS < GAP_BINS ? gaps_ns[i] / GAP_BIN_NS : GAP_BINS - 1]++;
    printf("\"longest_gap_s\": %.4f, \"median_longest_gap_s\": %.4f, \"longest_gap_histogram\": [", n ? gaps_ns[n - 1] / 1e9 : 0,
           n ? gaps_ns[n / 2] / 1e9 : 0);
    for (unsigned i = 0; i < GAP_BINS; i++)
        if (bins[i]) printf("%s[%.1f, %u]", comma, (i + 1) * (GAP_BIN_NS / 1e9), bins[i]), comma = ", ";
    printf("]");
}

static void print_window(const uint64_t *bytes_at_begin, uint64_t begin_ns, const pid_t *pids, uint64_t cpu_ns) {
    uint64_t now = now_ns(), total = 0, least = UINT64_MAX, most = 0, arrivals = 0, mismatches = 0, compared = 0, verified = 0;
    uint64_t *gaps_ns = calloc(options.count, sizeof *gaps_ns);
    double window_s = (now - begin_ns) / 1e9;
    unsigned playing = 0;
    if (!gaps_ns) die("calloc");
    shared->measuring = 0;
    for (unsigned i = 0; i < options.count; i++) {
        struct record *r = &shared->records[i];
        mismatches += r->mismatches;
        compared += r->compared_bytes;
        verified += r->compared_bytes > 0;
        if (r->state != PLAYING) continue;
        uint64_t bytes = r->body_bytes - bytes_at_begin[i], last = r->last_ns, open_gap = now > last ? now - last : 0;
        total += bytes;
        arrivals += r->arrivals;
        least = bytes < least ? bytes : least;
        most = bytes > most ? bytes : most;
        gaps_ns[playing++] = open_gap > r->longest_gap_ns ? open_gap : r->longest_gap_ns;
    }
    for (int i = 0; i < options.processes; i++) cpu_ns -= process_cpu_ns(pids[i]); /* wraps to minus what was used since */
    printf("{\"event\": \"window\", \"window_s\": %.3f, \"playing\": %u, \"dropped\": %u, \"failed\": %u, ", window_s, playing,
           count_of(DROPPED), count_of(FAILED));
    printf("\"bytes\": %lu, \"rate_min\": %.1f, \"rate_avg\": %.1f, \"rate_max\": %.1f, ", total, playing ? least / window_s : 0,
           playing ? total / window_s / playing : 0, most / window_s);
    printf("\"arrivals_per_listener_s\": %.3f, ", playing ? arrivals / window_s / playing : 0);
    print_gaps(gaps_ns, playing);
    printf(", \"verified\": %lu, \"compared_bytes\": %lu, \"mismatches\": %lu, \"cpu_s\": %.3f}\n", verified, compared, mismatches,
           -(int64_t)cpu_ns / 1e9);
    free(gaps_ns);
}

static uint64_t cpu_of(const pid_t *pids) {
    uint64_t cpu_ns = 0;
    for (int i = 0; i < options.processes; i++) cpu_ns += process_cpu_ns(pids[i]);
    return cpu_ns;
}

static void obey(const pid_t *pids) {
    uint64_t *bytes_at_begin = calloc(options.count, sizeof *bytes_at_begin), start_ns = now_ns(), begin_ns = start_ns, cpu_ns = 0;
    bool announced = false;
    char line[64];
    if (!bytes_at_begin) die("calloc");
    setvbuf(stdin, NULL, _IONBF, 0); /* poll() must see what is left */
    for (;;) {
        struct pollfd wait = {.fd = STDIN_FILENO, .events = POLLIN};
        int ready = poll(&wait, 1, announced ? -1 : PARENT_POLL_MS);
        double elapsed_s = (now_ns() - start_ns) / 1e9;
        if (!announced && ((!count_of(IDLE) && !count_of(OPENING)) || elapsed_s > options.ramp_timeout_s)) {
            announced = true;
            print_playing(elapsed_s);
        }
        if (ready <= 0) continue;
        if (!fgets(line, sizeof line, stdin) || strcmp(line, "quit\n") == 0) break;
        if (strcmp(line, "begin\n") == 0) {
            cpu_ns = cpu_of(pids);
            begin_ns = now_ns();
            begin_window(bytes_at_begin);
        } else if (strcmp(line, "end\n") == 0)
            print_window(bytes_at_begin, begin_ns, pids, cpu_ns);
    }
    free(bytes_at_begin);
}

static void read_options(int argc, char **argv) {
    static const struct option names[] = {{"port", 1, 0, 'p'},       {"path", 1, 0, 'f'},        {"listeners", 1, 0, 'n'},
                                          {"processes", 1, 0, 'w'},  {"concurrency", 1, 0, 'c'}, {"sources", 1, 0, 's'},
                                          {"icy-percent", 1, 0, 'i'}, {"offset-min", 1, 0, 'a'},  {"offset-max", 1, 0, 'b'},
                                          {"verify", 1, 0, 'v'},     {"verify-file", 1, 0, 'V'}, {"ramp-timeout", 1, 0, 't'},
                                          {"ramp-rate", 1, 0, 'r'},
                                          {0}};
    int name;
    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) switch (name) {
            case 'p': options.port = (int)number("port", optarg, 1, 65535); break;
            case 'f': options.path = optarg; break;
            case 'n': options.count = (unsigned)number("listeners", optarg, 1, 200000); break;
            case 'w': options.processes = (int)number("processes", optarg, 1, PROCESSES_MAX); break;
            case 'c': options.concurrency = (unsigned)number("concurrency", optarg, 1, 200000); break;
            case 's': options.sources = (unsigned)number("sources", optarg, 1, 250); break;
            case 'i': options.icy_percent = number("icy-percent", optarg, 0, 100); break;
            case 'a': options.offset_min_s = number("offset-min", optarg, 0, 1e6); break;
            case 'b': options.offset_max_s = number("offset-max", optarg, 0, 1e6); break;
            case 'v': options.verify = (unsigned)number("verify", optarg, 0, 200000); break;
            case 'V': options.verify_file = optarg; break;
            case 't': options.ramp_timeout_s = number("ramp-timeout", optarg, 1, 3600); break;
            case 'r': options.ramp_rate = number("ramp-rate", optarg, 1, 1e6); break;
            default:
                die("usage: listeners --port P [--path /P] [--listeners N] [--processes N] [--concurrency N] [--sources N] [--icy-percent P]"
                    " [--offset-min S --offset-max S] [--verify N --verify-file F] [--ramp-timeout S] [--ramp-rate PER_S]");
        }
    if (!options.port || optind != argc) die("listeners: --port is needed, and nothing but options");
    if (strlen(options.path) > 100 || (options.verify && !options.verify_file)) die("listeners: path too long, or --verify without its file");
}

int main(int argc, char **argv) {
    pid_t pids[PROCESSES_MAX], self = getpid();
    read_options(argc, argv);
    raise_fd_limit();
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (options.verify) load_file();
    shared = shared_bytes(sizeof *shared + options.count * sizeof *shared->records);
    for (int i = 0; i < options.processes; i++) {
        if ((pids[i] = fork()) < 0) die("fork");
        if (pids[i] == 0) {
            end_with_parent(self);
            listen_all((unsigned)i);
        }
    }
    obey(pids);
    for (int i = 0; i < options.processes; i++) {
        kill(pids[i], SIGKILL);
        waitpid(pids[i], NULL, 0);
    }
    return 0;
}
