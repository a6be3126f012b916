/*
 * cuse_server NAME: the least that a CUSE server of a TPM 2.0 in C has to do, to compare ours with (bench_device.py).
 *
 * libfuse's cuse_lowlevel and libtpms, one thread: open, write, read, release, and nothing else. No state is kept, no
 * caller is asked who he is, nothing is checked, nobody can poll or wait, and nothing outlives it. Written from libfuse's
 * headers and examples (libfuse3-dev), and from libtpms' manual pages.
 *
 *   cc -O2 cuse_server.c $(pkg-config --cflags --libs fuse3) -ltpms
 */

#define FUSE_USE_VERSION 31

#include <errno.h>
#include <fuse3/cuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libtpms/tpm_error.h>
#include <libtpms/tpm_library.h>

/* What an open file has: the response to its last command. */
struct file {
    size_t size;
    unsigned char response[4096];
};

static struct file *file_of(struct fuse_file_info *fi)
{
    return (struct file *)(uintptr_t)fi->fh;
}

static void on_open(fuse_req_t req, struct fuse_file_info *fi)
{
    struct file *file = calloc(1, sizeof(*file));

    if (file == NULL) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    fi->fh = (uintptr_t)file;
    fuse_reply_open(req, fi);
}

static void on_release(fuse_req_t req, struct fuse_file_info *fi)
{
    free(file_of(fi));
    fuse_reply_err(req, 0);
}

static void on_write(fuse_req_t req, const char *data, size_t size, off_t offset, struct fuse_file_info *fi)
{
    static unsigned char *response; /* libtpms' buffer, grown by it */
    static uint32_t capacity;
    struct file *file = file_of(fi);
    uint32_t response_size = 0;

    (void)offset;
    if (TPMLIB_Process(&response, &response_size, &capacity, (unsigned char *)(uintptr_t)data, size) != TPM_SUCCESS
        || response_size > sizeof(file->response)) {
        fuse_reply_err(req, EIO);
        return;
    }
    memcpy(file->response, response, response_size);
    file->size = response_size;
    fuse_reply_write(req, size);
}

static void on_read(fuse_req_t req, size_t size, off_t offset, struct fuse_file_info *fi)
{
    struct file *file = file_of(fi);

    (void)offset;
    fuse_reply_buf(req, (char *)file->response, size < file->size ? size : file->size);
    file->size = 0;
}

static TPM_RESULT on_init(void)
{
    return TPM_SUCCESS;
}

static TPM_RESULT on_load(unsigned char **data, uint32_t *length, uint32_t number, const char *name)
{
    (void)data, (void)length, (void)number, (void)name;
    return TPM_RETRY; /* there is no state: a new TPM */
}

static TPM_RESULT on_store(const unsigned char *data, uint32_t length, uint32_t number, const char *name)
{
    (void)data, (void)length, (void)number, (void)name;
    return TPM_SUCCESS;
}

static TPM_RESULT on_delete(uint32_t number, const char *name, TPM_BOOL must_exist)
{
    (void)number, (void)name, (void)must_exist;
    return TPM_SUCCESS;
}

int main(int argc, char *argv[])
{
    static const struct cuse_lowlevel_ops operations = {
        .open = on_open, .read = on_read, .write = on_write, .release = on_release,
    };
    struct libtpms_callbacks callbacks = {
        .sizeOfStruct = sizeof(callbacks), .tpm_nvram_init = on_init, .tpm_nvram_loaddata = on_load,
        .tpm_nvram_storedata = on_store, .tpm_nvram_deletename = on_delete, .tpm_io_init = on_init,
    };
    char *arguments[] = {argv[0], "-f", "-s", NULL}; /* in the foreground, one thread */
    char device[80];
    const char *information[] = {device};
    struct cuse_info info = {.dev_info_argc = 1, .dev_info_argv = information};

    if (argc != 2 || snprintf(device, sizeof(device), "DEVNAME=%s", argv[1]) >= (int)sizeof(device))
        return 64;
    if (TPMLIB_ChooseTPMVersion(TPMLIB_TPM_VERSION_2) || TPMLIB_RegisterCallbacks(&callbacks) || TPMLIB_MainInit())
        return 1;
    return cuse_lowlevel_main(3, arguments, &info, &operations, NULL);
}
