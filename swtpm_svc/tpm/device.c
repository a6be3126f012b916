/*
 * Plain requests at the character device, without Python: a command that is written, and its response that is read.
 *
 * A request is one read() of /dev/cuse, a reply is one write(); their layout is the kernel's linux/fuse.h. An open file that
 * Python has lent is served here: then all that there is to know about it is its response. Whatever else is asked, and every
 * request of a file that is not lent, is left to Python, which answers it with the request and the files as they are.
 *
 * The files' responses lie in memory that is the caller's, as does the request: whoever keeps that memory has both.
 */

#include <string.h>
#include <sys/uio.h>

#include <linux/fuse.h>

/* Requests in a row without anything else, before a wait in read() is worth what it takes to begin and end it. */
enum { PATIENCE = 64 };

struct vtpm_opener {
    uint64_t handle;        /* the kernel's name of the open file; 0: the place is free */
    uint32_t is_lent;       /* it is served here */
    uint32_t size;          /* of the response; 0: there is none */
    uint32_t position;      /* how much of it was read */
    struct fuse_out_header header; /* of the reply with the response: one piece is copied faster than two */
    unsigned char response[BUFFER_SIZE];
};

struct vtpm_device {
    struct vtpm_opener *openers;
    uint32_t opener_count;  /* places up to here are looked at */
    unsigned char *request; /* where the kernel copies it: this copy is the record of it */
    uint32_t request_room;
    uint32_t request_size;
    int error;              /* an errno, of what is VTPM_BROKEN or VTPM_REFUSED */
    uint64_t executed;      /* commands, since the call began */
};

/* What is read here of a request. fuse_read_in begins as fuse_write_in does, and is as long. */
struct device_request {
    struct fuse_in_header header;
    struct fuse_write_in body;
};

static struct vtpm_opener *lent_opener(const struct vtpm_device *device, uint64_t handle)
{
    for (uint32_t number = 0; number < device->opener_count; number++) {
        struct vtpm_opener *opener = &device->openers[number];
        if (opener->handle == handle)
            return opener->is_lent ? opener : NULL;
    }
    return NULL;
}

/* Who the request says has sent `unique` need no longer be answered. */
static void clear_record(struct vtpm_device *device)
{
    memset(device->request + offsetof(struct fuse_in_header, unique), 0, sizeof(uint64_t));
}

/* A reply was sent, or `sent` is negative. ENOENT: the client is gone, or a predecessor had answered. */
static enum vtpm_left end_request(struct vtpm_device *device, ssize_t sent)
{
    device->error = errno;
    clear_record(device);
    return sent >= 0 || device->error == ENOENT ? VTPM_NOTHING : VTPM_REFUSED;
}

/* After a command was executed, and before its client hears of it: what it came to is kept. */
static void commit(struct vtpm_opener *opener)
{
    memcpy(opener->response, vtpm_response, vtpm_response_size);
    opener->size = vtpm_response_size;
}

static enum vtpm_left serve_write(struct vtpm_device *device, int fd, struct vtpm_opener *opener, const struct device_request *request)
{
    opener->size = opener->position = 0; /* what was left of the response before is gone */
    device->executed++;
    if (!execute_plain(device->request + sizeof(*request), request->body.size) || vtpm_response_size > BUFFER_SIZE)
        return VTPM_EXECUTED;
    commit(opener);

    struct {
        struct fuse_out_header header;
        struct fuse_write_out body;
    } reply = {{sizeof(reply), 0, request->header.unique}, {request->body.size, 0}};
    return end_request(device, write(fd, &reply, sizeof(reply)));
}

static enum vtpm_left serve_read(struct vtpm_device *device, int fd, struct vtpm_opener *opener, const struct device_request *request)
{
    uint32_t start = opener->position, size = opener->size - start;

    if (request->body.size < size) {
        size = request->body.size;
        opener->position += size;
    } else {
        opener->size = opener->position = 0;
    }
    opener->header = (struct fuse_out_header){(uint32_t)sizeof(opener->header) + size, 0, request->header.unique};
    if (start == 0)
        return end_request(device, write(fd, &opener->header, sizeof(opener->header) + size));
    struct iovec pieces[] = {{&opener->header, sizeof(opener->header)}, {opener->response + start, size}};
    return end_request(device, writev(fd, pieces, 2));
}

/* Receive a request, and answer it if it is a plain one: VTPM_NOTHING; the rest is as vtpm_serve_device() says. */
static enum vtpm_left serve_request(struct vtpm_device *device, int fd)
{
    struct device_request request;
    ssize_t size = read(fd, device->request, device->request_room);

    if (size < 0) {
        device->error = errno;
        return VTPM_BROKEN;
    }
    device->request_size = (uint32_t)size;
    if ((size_t)size < sizeof(request))
        return VTPM_RECEIVED;
    memcpy(&request, device->request, sizeof(request));
    struct vtpm_opener *opener = lent_opener(device, request.body.fh);
    if (opener == NULL || request.header.len != (size_t)size)
        return VTPM_RECEIVED;

    size_t data_size = (size_t)size - sizeof(request);
    if (request.header.opcode == FUSE_READ && opener->size && !data_size)
        return serve_read(device, fd, opener, &request);
    /* one whose response nobody has begun to read takes no command */
    if (request.header.opcode == FUSE_WRITE && (!opener->size || opener->position) && request.body.size == data_size
        && data_size <= BUFFER_SIZE && is_plain(device->request + sizeof(request), (uint32_t)data_size))
        return serve_write(device, fd, opener, &request);
    return VTPM_RECEIVED;
}

/*
 * Serve /dev/cuse, `fd`, which can be read: receive a request, answer it, and go on as long as this is all that there is to do
 * until `deadline_s`. Runs without the interpreter's lock. What it gives back is for Python to go on with:
 *   VTPM_NOTHING    there is nothing left to do here
 *   VTPM_RECEIVED   request_size bytes that are not a plain request
 *   VTPM_EXECUTED   the same, and it is a command that was admitted and executed: its response is vtpm_response, and as
 *                   execute_plain() says; the file has none
 *   VTPM_BROKEN     `error`: the device can be read no more
 *   VTPM_REFUSED    `error`: the kernel did not take a reply
 */
static enum vtpm_left vtpm_serve_device(struct vtpm_device *device, int fd, int epoll, double deadline_s)
{
    enum vtpm_left left;
    int alone = 0, is_watched = 0;

    device->executed = 0;
    for (;;) {
        left = serve_request(device, fd);
        if (left != VTPM_NOTHING || (is_watched && watcher.has_woken))
            break;
        if (is_watched)
            continue;
        if (!next_is(fd, epoll, deadline_s))
            break;
        if (++alone == PATIENCE)
            is_watched = begin_watch(fd, epoll, deadline_s);
    }
    if (is_watched)
        end_watch();
    /* a signal, or what next_is() has seen was withdrawn (ENOENT, too) */
    if (left == VTPM_BROKEN && (device->error == EINTR || device->error == EAGAIN || device->error == ENOENT))
        return VTPM_NOTHING;
    return left;
}
