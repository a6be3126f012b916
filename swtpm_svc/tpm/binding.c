/*
 * The compiled part of the binding to libtpms: its callbacks, and the way of a plain command that needs no Python.
 *
 * _build.py puts this between cffi's declarations and the wrappers that it generates. Locality and physical presence are read
 * by libtpms on every command, so their callbacks are C and read one variable each; only storage, which is rare and slow
 * anyway, calls into Python. Functions that libtpms has since 0.10 are weak symbols: where they are missing,
 * vtpm_has_profiles() says so.
 */

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

#include <libtpms/tpm_error.h>
#include <libtpms/tpm_library.h>
#include <libtpms/tpm_memory.h>
#include <libtpms/tpm_tis.h>
#include <libtpms/tpm_types.h>

#pragma weak TPMLIB_SetProfile
extern TPM_RESULT TPMLIB_SetProfile(const char *profile);

/* There is one TPM in a process, and its callbacks get no context: hence these. */
static uint32_t vtpm_locality;
static unsigned char *vtpm_response;    /* libtpms's buffer: grown by it, reused for every command */
static uint32_t vtpm_response_size;
static uint32_t vtpm_response_capacity;
static int storage_used;                /* since it was last cleared: something is to be stored, or could not be loaded */

/* --- callbacks ---------------------------------------------------------------------------------------------------- */

static TPM_RESULT vtpm_nvram_load(unsigned char **data, uint32_t *length, const char *name);
static TPM_RESULT vtpm_nvram_store(const unsigned char *data, uint32_t length, const char *name);
static TPM_RESULT vtpm_nvram_delete(const char *name, TPM_BOOL must_exist);

/* Python only takes note of what is to be stored or deleted, so that these do not fail for a full disk. */

static TPM_RESULT on_init(void)
{
    return TPM_SUCCESS;
}

static TPM_RESULT on_load(unsigned char **data, uint32_t *length, uint32_t number, const char *name)
{
    TPM_RESULT result = vtpm_nvram_load(data, length, name);

    (void)number;
    if (result != TPM_SUCCESS && result != TPM_RETRY) /* TPM_RETRY: there is no such state */
        storage_used = 1;
    return result;
}

static TPM_RESULT on_store(const unsigned char *data, uint32_t length, uint32_t number, const char *name)
{
    (void)number;
    storage_used = 1;
    return vtpm_nvram_store(data, length, name);
}

static TPM_RESULT on_delete(uint32_t number, const char *name, TPM_BOOL must_exist)
{
    (void)number;
    storage_used = 1;
    return vtpm_nvram_delete(name, must_exist);
}

static TPM_RESULT on_locality(TPM_MODIFIER_INDICATOR *locality, uint32_t number)
{
    (void)number;
    *locality = vtpm_locality;
    return TPM_SUCCESS;
}

static TPM_RESULT on_presence(TPM_BOOL *presence, uint32_t number)
{
    (void)number;
    *presence = FALSE;
    return TPM_SUCCESS;
}

/* --- what C says more simply than cffi ---------------------------------------------------------------------------- */

static TPM_RESULT vtpm_choose(int tpm2)
{
    return TPMLIB_ChooseTPMVersion(tpm2 ? TPMLIB_TPM_VERSION_2 : TPMLIB_TPM_VERSION_1_2);
}

/* What libtpms says of its failures holds the failed command, with the passwords in it, at every level of its own. */
static int vtpm_silence(void)
{
    int nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);

    if (nowhere < 0)
        return errno;
    TPMLIB_SetDebugFD(nowhere);
    TPMLIB_SetDebugLevel(0);
    return 0;
}

/* For who asks for it, and gives the place. */
static void vtpm_write_log(int fd, unsigned int level, const char *prefix)
{
    TPMLIB_SetDebugFD(fd);
    TPMLIB_SetDebugLevel(level);
    TPMLIB_SetDebugPrefix(prefix);
}

static TPM_RESULT vtpm_register(void)
{
    struct libtpms_callbacks callbacks = {
        sizeof(callbacks), on_init, on_load, on_store, on_delete, on_init, on_locality, on_presence,
    };
    return TPMLIB_RegisterCallbacks(&callbacks);
}

static TPM_RESULT vtpm_process(unsigned char *command, uint32_t size)
{
    return TPMLIB_Process(&vtpm_response, &vtpm_response_size, &vtpm_response_capacity, command, size);
}

static char *vtpm_get_info(uint64_t flags)
{
    return TPMLIB_GetInfo((enum TPMLIB_InfoFlags)flags);
}

static void vtpm_free_info(char *info)
{
    free(info);
}

static int vtpm_has_profiles(void)
{
    return TPMLIB_SetProfile != NULL;
}

static TPM_RESULT vtpm_set_profile(const char *profile)
{
    return TPMLIB_SetProfile(profile);
}

/* Root's from here on are /proc/PID and what is read there, such as the memory and the directories of the process. */
static void vtpm_hide_process(void)
{
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
}

/*
 * Is `user`, whose own group is `primary`, in the group `wanted`? Asks the system's databases, which may take their time: without
 * the interpreter's lock, which Python's os.getgrouplist() holds.
 */
static int vtpm_is_member(const char *user, uint32_t primary, uint32_t wanted)
{
    int count = 64, found = 0;
    gid_t *groups = NULL;

    for (;;) {
        int size = count;
        gid_t *larger = realloc(groups, (size_t)size * sizeof(*groups));
        if (larger == NULL)
            break;
        groups = larger;
        if (getgrouplist(user, primary, groups, &count) >= 0) {
            for (int i = 0; i < count && !found; i++)
                found = groups[i] == wanted;
            break;
        }
        if (count <= size) /* not for want of room */
            break;
    }
    free(groups);
    return found;
}

/* --- plain commands ----------------------------------------------------------------------------------------------- */

enum { HEADER_SIZE = 10, CODES = 512, BUFFER_SIZE = 4096 };

/* By command code: it runs shortly, and nobody keeps state about it. */
static unsigned char vtpm_plain_codes[CODES];

/* What is left to Python: vtpm_serve and vtpm_serve_device say which they give back. */
enum vtpm_left { VTPM_NOTHING, VTPM_RECEIVED, VTPM_EXECUTED, VTPM_BROKEN, VTPM_REFUSED };

static uint32_t big_endian(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

/* One whole command and no more. It has no prefix (00000008): its size would then be 512 KiB and more. */
static int is_plain(const unsigned char *command, uint32_t size)
{
    if (size < HEADER_SIZE || big_endian(command + 2) != size)
        return 0;
    uint32_t code = big_endian(command + 6);
    return code < CODES && vtpm_plain_codes[code];
}

/*
 * Execute a plain command. Is its response, vtpm_response, to go out as it is? If not, it is Python's to go on with: the
 * TPM has refused the command, libtpms gave no response (then it is empty), or something is to be stored first.
 */
static int execute_plain(unsigned char *command, uint32_t size)
{
    storage_used = 0;
    if (vtpm_process(command, size) != TPM_SUCCESS)
        vtpm_response_size = 0;
    return vtpm_response_size >= HEADER_SIZE && big_endian(vtpm_response + 6) == TPM_SUCCESS && !storage_used;
}

/* Milliseconds until `deadline_s` of CLOCK_MONOTONIC, rounded up; 0: it is over; -1: it never is. */
static int time_left(double deadline_s)
{
    struct timespec now;

    if (isinf(deadline_s))
        return -1;
    if (clock_gettime(CLOCK_MONOTONIC, &now) != 0)
        return 0;
    double left_s = deadline_s - (double)now.tv_sec - (double)now.tv_nsec * 1e-9;
    return left_s <= 0 ? 0 : left_s > 1e6 ? 1000000000 : 1 + (int)(left_s * 1e3);
}

/* Wait for the next event, in the place of the loop whose `epoll` it is: is it that `fd` can be read, and nothing else? */
static int next_is(int fd, int epoll, double deadline_s)
{
    struct epoll_event events[2];
    int timeout = time_left(deadline_s);

    return timeout != 0 && epoll_wait(epoll, events, 2, timeout) == 1 && events[0].data.fd == fd && events[0].events == EPOLLIN;
}

/* --- on a stream socket ------------------------------------------------------------------------------------------- */

struct vtpm_stream {
    unsigned char received[BUFFER_SIZE + 9]; /* what one recv() takes: a command, and its prefix */
    uint32_t received_size;
    uint32_t sent;                           /* bytes of the response */
    uint64_t executed;                       /* commands, since the call began */
};

/*
 * Serve the stream socket `fd`, which can be read: receive a command, execute it, send its response, and go on as long as
 * this is all that there is to do until `deadline_s`. Runs without the interpreter's lock. What it gives back is for
 * Python to go on with:
 *   VTPM_NOTHING    there is nothing left to do here
 *   VTPM_RECEIVED   received_size bytes that are not a plain command; 0: the connection has ended
 *   VTPM_EXECUTED   a command whose response is vtpm_response (empty: libtpms gave none), of which `sent` bytes have gone:
 *                   the TPM has refused it, something is to be stored first, or the socket took no more
 */
static enum vtpm_left vtpm_serve(struct vtpm_stream *stream, int fd, int epoll, double deadline_s)
{
    stream->executed = 0;
    do {
        ssize_t size = recv(fd, stream->received, sizeof(stream->received), MSG_DONTWAIT);
        if (size < 0 && (errno == EAGAIN || errno == EINTR))
            return VTPM_NOTHING;
        stream->received_size = size < 0 ? 0 : (uint32_t)size;
        if (!is_plain(stream->received, stream->received_size))
            return VTPM_RECEIVED;

        stream->sent = 0;
        stream->executed++;
        if (!execute_plain(stream->received, stream->received_size))
            return VTPM_EXECUTED;

        ssize_t sent = send(fd, vtpm_response, vtpm_response_size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent != (ssize_t)vtpm_response_size) {
            stream->sent = sent < 0 ? 0 : (uint32_t)sent;
            return VTPM_EXECUTED;
        }
    } while (next_is(fd, epoll, deadline_s));
    return VTPM_NOTHING;
}
