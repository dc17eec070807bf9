/* The sink: takes what a router delivers, over TCP, TLS or HTTP, and checks it.
 *
 *     sink connections=8 channels=1 [copies=1] [text_bytes=N] [timed=1] [one_channel=1] [idle_ms=5000] [cert=FILE key=FILE]
 *
 * Listens on a free port and prints it as its first line; reports when told on standard input (see common.h).
 * A connection is HTTP when it begins with "POST", else a stream of counted frames, or of lines where they begin with "<".
 * HTTP: POST /CHANNEL/COPY, answered 200; a frame of another channel is misrouted, a wrong Logplex-Msg-Count is counted.
 * one_channel=1: all messages of a stream belong to the channel of its first one.
 */
#include "common.h"

#define BUFFER (512 * 1024)

static struct peer {
    struct wire wire;
    bool shaken, known, http;
    int channel, copy;
    int64_t body_left, frames_left;
    char *buffer;
    size_t filled;
} listener, orders;

static int64_t accepted, requests, miscounted, text_bytes;
static bool timed, one_channel;
static char *spare; /* one buffer for all peers: a peer has one of its own only while a frame is incomplete */

static void take(struct peer *p, const char *frame, size_t length) {
    while (length && (frame[length - 1] == '\n' || frame[length - 1] == '\0')) length--;
    if (one_channel && p->channel < 0 && !p->http) {
        const char *mark = find_mark(frame, length, text_bytes);
        if (mark && mark + MARK_BYTES <= frame + length) p->channel = get_digits(mark + 10, 5);
    }
    arrived(frame, length, p->copy, p->channel, text_bytes, timed);
    p->frames_left--;
}

/* Take the whole frames of [from, end); returns where the first incomplete one begins. */
static const char *take_frames(struct peer *p, const char *from, const char *end) {
    while (from < end) {
        if (*from == '<') {
            const char *lf = memchr(from, '\n', end - from);
            if (!lf) break;
            take(p, from, lf - from);
            from = lf + 1;
            continue;
        }
        const char *digit = from;
        int64_t length = 0;
        while (digit < end && *digit >= '0' && *digit <= '9') length = length * 10 + *digit++ - '0';
        if (digit == end) break;
        if (*digit != ' ' || digit == from || length > BUFFER / 2) die("no frame begins with %.20s", from);
        if (end - digit - 1 < length) break;
        take(p, digit + 1, length);
        from = digit + 1 + length;
    }
    return from;
}

static int64_t header(const char *from, const char *end, const char *name) {
    const char *found = memmem(from, end - from, name, strlen(name));
    return found ? strtoll(found + strlen(name), NULL, 10) : -1;
}

static const char *take_http(struct peer *p, const char *from, const char *end) {
    static const char ok[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    while (from < end) {
        if (p->body_left == 0) {
            const char *blank = memmem(from, end - from, "\r\n\r\n", 4);
            if (!blank) break;
            p->body_left = header(from, blank + 2, "\r\nContent-Length: ");
            if (p->body_left < 0) p->body_left = header(from, blank + 2, "\r\ncontent-length: ");
            if (p->body_left < 0) die("a request without Content-Length: %.200s", from);
            p->frames_left = header(from, blank + 2, "\r\nLogplex-Msg-Count: ");
            p->channel = p->copy = 0;
            if (sscanf(from, "POST /%d/%d", &p->channel, &p->copy) < 1) die("an unknown path: %.60s", from);
            from = blank + 4;
        }
        const char *body_end = end - from < p->body_left ? end : from + p->body_left;
        const char *next = take_frames(p, from, body_end);
        p->body_left -= next - from;
        from = next;
        if (p->body_left > 0) break;
        requests++;
        if (p->frames_left != 0) miscounted++;
        if (wire_write(&p->wire, ok, sizeof ok - 1) != sizeof ok - 1) die("an answer did not fit the socket");
    }
    return from;
}

static void drop(struct peer *p) {
    if (p->wire.ssl) SSL_free(p->wire.ssl);
    close(p->wire.fd);
    free(p->buffer);
    free(p);
}

static void serve(struct peer *p) {
    if (p->wire.ssl && !p->shaken) {
        ssize_t result = tls_result(&p->wire, SSL_accept(p->wire.ssl));
        if (result <= 0 && errno == EAGAIN) return;
        if (result <= 0) {
            drop(p);
            return;
        }
        p->shaken = true;
    }
    for (int turn = 0; turn < 64; turn++) { /* TLS may hold more than the socket shows */
        if (p->filled) memcpy(spare, p->buffer, p->filled);
        ssize_t got = wire_read(&p->wire, spare + p->filled, BUFFER - p->filled);
        if (got < 0 && errno == EAGAIN) return;
        if (got <= 0) {
            drop(p);
            return;
        }
        check.last_us = now_us();
        if (!check.first_us) check.first_us = check.last_us;
        if (!p->known) p->known = true, p->http = !strncmp(spare, "POST", got < 4 ? got : 4);
        const char *end = spare + p->filled + got;
        const char *rest = p->http ? take_http(p, spare, end) : take_frames(p, spare, end);
        free(p->buffer);
        p->filled = end - rest;
        p->buffer = p->filled ? memcpy(zeroed(p->filled, 1), rest, p->filled) : NULL;
        if (!p->wire.ssl) return;
    }
}

static void accept_all(void) {
    for (int fd; (fd = accept(listener.wire.fd, NULL, NULL)) >= 0; accepted++) {
        struct peer *p = zeroed(1, sizeof *p);
        p->wire.fd = fd;
        p->channel = -1;
        nonblocking(fd);
        if (tls) {
            p->wire.ssl = SSL_new(tls);
            SSL_set_fd(p->wire.ssl, fd);
        }
        watch(fd, EPOLLIN, p, EPOLL_CTL_ADD);
    }
}

static void listen_and_tell(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    listener.wire.fd = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener.wire.fd, (struct sockaddr *)&address, size) < 0 || listen(listener.wire.fd, 4096) < 0) die("listen");
    nonblocking(listener.wire.fd);
    getsockname(listener.wire.fd, (struct sockaddr *)&address, &size);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
}

int main(int count, char **arguments) {
    (void)count;
    given = arguments + 1;
    signal(SIGPIPE, SIG_IGN);
    many_files();
    start_check(option("copies", 1));
    text_bytes = option("text_bytes", 0);
    timed = option("timed", 0);
    one_channel = option("one_channel", 0);
    idle_us = option("idle_ms", 5000) * 1000;
    spare = zeroed(BUFFER, 1);
    const char *certificate = text_option("cert", NULL);
    if (certificate) {
        tls = SSL_CTX_new(TLS_server_method());
        if (SSL_CTX_use_certificate_chain_file(tls, certificate) != 1 ||
            SSL_CTX_use_PrivateKey_file(tls, text_option("key", certificate), SSL_FILETYPE_PEM) != 1)
            die("%s", certificate);
    }
    epoll = epoll_create1(0);
    listen_and_tell();
    watch(listener.wire.fd, EPOLLIN, &listener, EPOLL_CTL_ADD);
    watch(0, EPOLLIN, &orders, EPOLL_CTL_ADD);
    struct epoll_event events[256];
    int64_t told = 0;
    double spent = cpu_seconds();
    while (more_to_come(told)) {
        int ready = epoll_wait(epoll, events, 256, 100);
        for (int i = 0; i < ready; i++) {
            struct peer *p = events[i].data.ptr;
            if (p == &listener) accept_all();
            else if (p == &orders) read_orders(), told = now_us();
            else serve(p);
        }
    }
    printf("{");
    print_check();
    print_latencies();
    printf("\"accepted\": %" PRId64 ", \"requests\": %" PRId64 ", \"miscounted\": %" PRId64 ", \"cpu_seconds\": %.6f}\n", accepted,
           requests, miscounted, cpu_seconds() - spent);
    return 0;
}
