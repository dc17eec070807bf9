/* What load.c, sink.c and tails.c share: options, time, sockets with or without TLS, and the check of what arrived.
 *
 * A measured message carries, in fields of fixed width at the start of its text,
 *     #c=0003 k=00042 n=0000001234 t=0000001234567890
 * the connection it was sent on, its channel, its number on that connection and the time it was sent (monotonic, us).
 *
 * Rules that the programs keep:
 * - one thread, epoll, memory laid out before the first byte: they have to be several times faster than any server.
 * - options are name=value; the result is one JSON object on standard output.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MARK "#c="
#define MARK_BYTES 48 /* of "#c=CCCC k=KKKKK n=NNNNNNNNNN t=TTTTTTTTTTTTTTTT " */

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fprintf(stderr, errno ? ": %s\n" : "\n", strerror(errno));
    exit(1);
}

static void *zeroed(size_t count, size_t size) {
    void *memory = calloc(count ? count : 1, size);
    if (!memory) die("out of memory");
    return memory;
}

/* Options */

static char **given;

static const char *text_option(const char *name, const char *otherwise) {
    size_t length = strlen(name);
    for (char **option = given; *option; option++)
        if (!strncmp(*option, name, length) && (*option)[length] == '=') return *option + length + 1;
    return otherwise;
}

static int64_t option(const char *name, int64_t otherwise) {
    const char *text = text_option(name, NULL);
    return text ? atoll(text) : otherwise;
}

/* Time and digits */

static int64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000) + now.tv_nsec / 1000;
}

static double cpu_seconds(void) {
    struct timespec spent;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
    return spent.tv_sec + spent.tv_nsec / 1e9;
}

static inline void put_digits(char *to, int width, uint64_t value) {
    while (width > 0) to[--width] = '0' + value % 10, value /= 10;
}

static inline int64_t get_digits(const char *from, int width) {
    int64_t value = 0;
    for (int i = 0; i < width; i++) {
        unsigned digit = (unsigned char)from[i] - '0';
        if (digit > 9) return -1;
        value = value * 10 + digit;
    }
    return value;
}

/* Latencies: 10 us steps up to 1 s, then 10 ms steps up to 100 s */

#define FINE 100000
#define COARSE 10000
static uint64_t latencies[FINE + COARSE];
static uint64_t latency_count;

static void note_latency(int64_t us) {
    int64_t step = us < 0 ? 0 : us / 10;
    if (step >= FINE) step = FINE + (us - 1000000) / 10000;
    if (step >= FINE + COARSE) step = FINE + COARSE - 1;
    latencies[step]++, latency_count++;
}

static double latency_ms(double quantile) {
    uint64_t wanted = latency_count * quantile, seen = 0;
    for (int step = 0; step < FINE + COARSE; step++) {
        seen += latencies[step];
        if (seen > wanted) return step < FINE ? step / 100.0 : 1000 + (step - FINE) * 10.0;
    }
    return 0;
}

static void print_latencies(void) {
    printf("\"p50_ms\": %.2f, \"p99_ms\": %.2f, \"max_ms\": %.2f, ", latency_ms(0.5), latency_ms(0.99),
           latency_ms(0.9999999));
}

/* Sockets */

struct wire { /* a connected socket, with TLS where ssl is set */
    int fd;
    SSL *ssl;
};

static SSL_CTX *tls;

static void nonblocking(int fd) {
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) die("fcntl");
}

static void many_files(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

static int dial(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect to port %d", port);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static ssize_t tls_result(struct wire *wire, int result) {
    if (result > 0) return result;
    int error = SSL_get_error(wire->ssl, result);
    if (error == SSL_ERROR_ZERO_RETURN) return 0;
    errno = error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? EAGAIN : EPROTO;
    ERR_clear_error();
    return -1;
}

static ssize_t wire_write(struct wire *wire, const char *from, size_t length) {
    if (!wire->ssl) return send(wire->fd, from, length, MSG_NOSIGNAL);
    return tls_result(wire, SSL_write(wire->ssl, from, length > 1 << 20 ? 1 << 20 : length));
}

static ssize_t wire_read(struct wire *wire, char *to, size_t length) {
    if (!wire->ssl) return recv(wire->fd, to, length, 0);
    return tls_result(wire, SSL_read(wire->ssl, to, length));
}

static int epoll;

static void watch(int fd, uint32_t events, void *data, int operation) {
    struct epoll_event event = {.events = events, .data.ptr = data};
    if (epoll_ctl(epoll, operation, fd, &event) < 0) die("epoll_ctl");
}

/* The check: every number of every connection once, in order within its connection and channel.
 * `copies` readers of the same messages (drains of one channel, tails) are checked apart. */

struct check {
    int copies, connections, channels;
    struct numbers { uint64_t *bits; int64_t words; } *seen; /* [copy][connection] */
    int64_t *last;                                            /* [copy][connection][channel] */
    int64_t unique, repeated, reordered, misrouted, other, bytes;
    int64_t first_us, last_us;
} check;

static void start_check(int copies) {
    check.copies = copies;
    check.connections = option("connections", 8);
    check.channels = option("channels", 1);
    check.seen = zeroed((size_t)check.copies * check.connections, sizeof *check.seen);
    size_t count = (size_t)check.copies * check.connections * check.channels;
    check.last = zeroed(count, sizeof *check.last);
    memset(check.last, 0xff, count * sizeof *check.last);
}

static const char *find_mark(const char *frame, size_t length, size_t text_bytes) {
    if (length >= text_bytes && !memcmp(frame + length - text_bytes, MARK, 3)) return frame + length - text_bytes;
    return memmem(frame, length, MARK, 3);
}

/* A message that arrived for `copy`; `channel` is where it belongs, -1 when the place does not tell. */
static void arrived(const char *frame, size_t length, int copy, int channel, size_t text_bytes, bool timed) {
    const char *mark = find_mark(frame, length, text_bytes);
    check.bytes += length;
    if (!mark || mark + MARK_BYTES > frame + length) {
        check.other++;
        return;
    }
    int64_t c = get_digits(mark + 3, 4), k = get_digits(mark + 10, 5), n = get_digits(mark + 18, 10);
    if (c < 0 || c >= check.connections || k < 0 || k >= check.channels || n < 0 || copy >= check.copies) {
        check.other++;
        return;
    }
    if (channel >= 0 && channel != k) check.misrouted++;
    struct numbers *seen = &check.seen[(int64_t)copy * check.connections + c];
    if (n / 64 >= seen->words) {
        int64_t words = n / 64 * 2 + 64;
        seen->bits = realloc(seen->bits, words * 8);
        if (!seen->bits) die("out of memory");
        memset(seen->bits + seen->words, 0, (words - seen->words) * 8);
        seen->words = words;
    }
    uint64_t bit = UINT64_C(1) << (n % 64);
    if (seen->bits[n / 64] & bit) {
        check.repeated++;
        return;
    }
    seen->bits[n / 64] |= bit;
    check.unique++;
    int64_t *last = &check.last[((int64_t)copy * check.connections + c) * check.channels + k];
    if (n < *last) check.reordered++;
    else *last = n;
    int64_t sent_us = timed ? get_digits(mark + 31, 16) : 0;
    if (sent_us > 0) note_latency(now_us() - sent_us);
}

static void print_check(void) {
    printf("\"received\": %" PRId64 ", \"repeated\": %" PRId64 ", \"reordered\": %" PRId64 ", \"misrouted\": %" PRId64
           ", \"other\": %" PRId64 ", \"bytes\": %" PRId64 ", \"first_us\": %" PRId64 ", \"last_us\": %" PRId64 ", ",
           check.unique, check.repeated, check.reordered, check.misrouted, check.other, check.bytes, check.first_us,
           check.last_us);
}

/* Lines on standard input: "expect N" says how many messages there will be; its end means stop now.
 * Returns false when the program is to report: all there, or nothing new for idle_ms after "expect". */

static int64_t expected = -1, idle_us;

static void read_orders(void) {
    static char line[64];
    static size_t filled;
    ssize_t got = read(0, line + filled, sizeof line - 1 - filled);
    if (got <= 0) {
        expected = 0;
        return;
    }
    filled += got;
    line[filled] = 0;
    if (strchr(line, '\n')) sscanf(line, "expect %" SCNd64, &expected), filled = 0;
}

static bool more_to_come(int64_t started) {
    if (expected < 0) return true;
    if (check.unique >= expected) return false;
    int64_t since = check.last_us > started ? check.last_us : started;
    return now_us() - since < idle_us;
}
