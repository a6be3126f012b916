"""Build script of the compiled binding to libtpms (cffi, API mode), run by the package build: what Python sees of the C
files."""

from pathlib import Path

from cffi import FFI

ffibuilder = FFI()

ffibuilder.cdef(
    """
    typedef uint32_t TPM_RESULT;
    typedef unsigned char TPM_BOOL;

    #define TPM_LIBRARY_VERSION ...

    enum TPMLIB_StateType { TPMLIB_STATE_PERMANENT, TPMLIB_STATE_VOLATILE, TPMLIB_STATE_SAVE_STATE, ... };

    uint32_t   TPMLIB_GetVersion(void);
    TPM_RESULT TPMLIB_MainInit(void);
    void       TPMLIB_Terminate(void);
    TPM_RESULT TPMLIB_CancelCommand(void);
    uint32_t   TPMLIB_SetBufferSize(uint32_t wanted, uint32_t *minimum, uint32_t *maximum);
    TPM_RESULT TPMLIB_ValidateState(enum TPMLIB_StateType type, unsigned int flags);
    TPM_RESULT TPMLIB_SetState(enum TPMLIB_StateType type, const unsigned char *buffer, uint32_t length);
    TPM_RESULT TPMLIB_GetState(enum TPMLIB_StateType type, unsigned char **buffer, uint32_t *length);
    TPM_RESULT TPMLIB_VolatileAll_Store(unsigned char **buffer, uint32_t *length);
    TPM_RESULT TPM_IO_Hash_Start(void);
    TPM_RESULT TPM_IO_Hash_Data(const unsigned char *data, uint32_t length);
    TPM_RESULT TPM_IO_Hash_End(void);
    TPM_RESULT TPM_IO_TpmEstablished_Get(TPM_BOOL *established);
    TPM_RESULT TPM_IO_TpmEstablished_Reset(void);
    void       TPM_Free(unsigned char *buffer);

    TPM_RESULT vtpm_choose(int tpm2);
    int        vtpm_silence(void);
    void       vtpm_write_log(int fd, unsigned int level, const char *prefix);
    TPM_RESULT vtpm_register(void);
    TPM_RESULT vtpm_process(unsigned char *command, uint32_t size);
    char      *vtpm_get_info(uint64_t flags);
    void       vtpm_free_info(char *info);
    int        vtpm_has_profiles(void);
    TPM_RESULT vtpm_set_profile(const char *profile);
    void       vtpm_hide_process(void);
    int        vtpm_confine(void);
    int        vtpm_deny_system_calls(int is_only_logged);
    int        vtpm_is_member(const char *user, uint32_t primary, uint32_t wanted);

    uint32_t       vtpm_locality;
    unsigned char *vtpm_response;
    uint32_t       vtpm_response_size;

    unsigned char vtpm_plain_codes[...];
    enum vtpm_left { VTPM_NOTHING, VTPM_RECEIVED, VTPM_EXECUTED, VTPM_BROKEN, VTPM_REFUSED };

    struct vtpm_stream {
        unsigned char received[...];
        uint32_t received_size;
        uint32_t sent;
        uint64_t executed;
    };
    enum vtpm_left vtpm_serve(struct vtpm_stream *stream, int fd, int epoll, double deadline_s);

    struct vtpm_opener {
        uint64_t handle;
        uint32_t is_lent;
        uint32_t size;
        uint32_t position;
        unsigned char response[...];
        ...;
    };
    struct vtpm_device {
        struct vtpm_opener *openers;
        uint32_t opener_count;
        unsigned char *request;
        uint32_t request_room;
        uint32_t request_size;
        int error;
        uint64_t executed;
    };
    enum vtpm_left vtpm_serve_device(struct vtpm_device *device, int fd, int epoll, double deadline_s);

    extern "Python" TPM_RESULT vtpm_nvram_load(unsigned char **data, uint32_t *length, const char *name);
    extern "Python" TPM_RESULT vtpm_nvram_store(const unsigned char *data, uint32_t length, const char *name);
    extern "Python" TPM_RESULT vtpm_nvram_delete(const char *name, TPM_BOOL must_exist);

    TPM_RESULT TPM_Malloc(unsigned char **buffer, uint32_t size);
    """
)

ffibuilder.set_source(
    "swtpm_svc.tpm._libtpms",
    "".join(
        Path(__file__).with_name(name).read_text(encoding="ascii")
        for name in ("confinement.c", "system_calls.c", "binding.c", "watcher.c", "device.c")
    ),
    libraries=["tpms"],
    extra_compile_args=["-O2", "-Wall", "-Wextra", "-pthread"],
    extra_link_args=["-pthread"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
