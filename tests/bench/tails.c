/* The readers: opens many tail sessions and checks what each of them is shown.
 *
 *     tails port=N paths=FILE [connections=1] [channels=1] [text_bytes=N] [sse=1] [idle_ms=5000]
 *
 * paths: one path of a session a line, a reader each. Prints "ready" once every reader has its response header, and
 * reports when told on standard input (see common.h). Latencies are those of all readers together.
 */
#include "common.h"

#define LINE 4096

static struct reader {
    struct wire wire;
    int number;
    bool in_body;
    int64_t chunk_left; /* of the chunk; -2 while its size is read */
    int64_t size;
    char line[LINE];
    size_t filled;
} *readers, orders;

static int64_t reader_count, ready_count, ended;
static size_t text_bytes;

static void take_line(struct reader *r) {
    size_t length = r->filled;
    r->filled = 0;
    if (length < MARK_BYTES) return; /* ids, heartbeats, blank lines */
    arrived(r->line, length, r->number, -1, text_bytes, true);
}

static void take_body(struct reader *r, const char *from, const char *end) {
    while (from < end) {
        if (r->chunk_left == -2) { /* the line with the size, and the CR LF behind a chunk */
            char byte = *from++;
            if (byte >= '0' && byte <= '9') r->size = r->size * 16 + byte - '0';
            else if ((byte | 32) >= 'a' && (byte | 32) <= 'f') r->size = r->size * 16 + (byte | 32) - 'a' + 10;
            else if (byte == '\n' && r->size > 0) r->chunk_left = r->size, r->size = 0;
            continue;
        }
        size_t part = end - from < r->chunk_left ? end - from : r->chunk_left;
        const char *lf = memchr(from, '\n', part);
        size_t copied = lf ? (size_t)(lf - from) : part;
        if (r->filled + copied > LINE) die("a line of a tail is longer than %d", LINE);
        memcpy(r->line + r->filled, from, copied);
        r->filled += copied;
        if (lf) take_line(r), copied++;
        from += copied;
        r->chunk_left -= copied;
        if (r->chunk_left == 0) r->chunk_left = -2;
    }
}

static void serve(struct reader *r) {
    static char buffer[256 * 1024];
    ssize_t got = wire_read(&r->wire, buffer, sizeof buffer);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        ended++;
        close(r->wire.fd);
        return;
    }
    check.last_us = now_us();
    if (!check.first_us) check.first_us = check.last_us;
    const char *from = buffer, *end = buffer + got;
    if (!r->in_body) {
        from = memmem(buffer, got, "\r\n\r\n", 4);
        if (!from || strncmp(buffer, "HTTP/1.1 200", 12)) die("reader %d: %.*s", r->number, (int)got, buffer);
        from += 4;
        r->in_body = true;
        ready_count++;
    }
    take_body(r, from, end);
}

static void open_readers(const char *path, int port, bool sse) {
    FILE *file = fopen(path, "r");
    if (!file) die("%s", path);
    char target[512], request[1024];
    while (fscanf(file, "%511s", target) == 1) reader_count++;
    rewind(file);
    readers = zeroed(reader_count, sizeof *readers);
    for (int64_t i = 0; i < reader_count && fscanf(file, "%511s", target) == 1; i++) {
        struct reader *r = &readers[i];
        r->number = i;
        r->chunk_left = -2;
        r->wire.fd = dial(port);
        int length = sprintf(request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: %s\r\n\r\n", target, port,
                             sse ? "text/event-stream" : "*/*");
        if (wire_write(&r->wire, request, length) != length) die("a request did not fit the socket");
        nonblocking(r->wire.fd);
        watch(r->wire.fd, EPOLLIN, r, EPOLL_CTL_ADD);
    }
    fclose(file);
}

int main(int count, char **arguments) {
    (void)count;
    given = arguments + 1;
    signal(SIGPIPE, SIG_IGN);
    many_files();
    text_bytes = option("text_bytes", 0);
    idle_us = option("idle_ms", 5000) * 1000;
    epoll = epoll_create1(0);
    open_readers(text_option("paths", "paths.txt"), option("port", 0), option("sse", 0));
    start_check(reader_count);
    watch(0, EPOLLIN, &orders, EPOLL_CTL_ADD);
    struct epoll_event events[256];
    int64_t told = 0;
    bool announced = false;
    double spent = cpu_seconds();
    while (more_to_come(told)) {
        int ready = epoll_wait(epoll, events, 256, 100);
        for (int i = 0; i < ready; i++) {
            struct reader *r = events[i].data.ptr;
            if (r == &orders) read_orders(), told = now_us();
            else serve(r);
        }
        if (!announced && ready_count == reader_count) {
            printf("ready\n");
            fflush(stdout);
            announced = true;
        }
    }
    printf("{");
    print_check();
    print_latencies();
    printf("\"readers\": %" PRId64 ", \"ended\": %" PRId64 ", \"cpu_seconds\": %.6f}\n", reader_count, ended,
           cpu_seconds() - spent);
    return 0;
}
