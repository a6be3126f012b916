"""Build script of the compiled binding to libtpms (cffi, API mode), run by the package build.

The hot path stays in C: locality and physical presence are read by libtpms on every command, so their callbacks are C
and read one variable each; only storage, which is rare and slow anyway, calls into Python. Functions that libtpms has
since 0.10 are weak symbols: where they are missing, `vtpm_has_profiles()` says so.
"""

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
    TPM_RESULT vtpm_register(void);
    TPM_RESULT vtpm_process(unsigned char *command, uint32_t size);
    char      *vtpm_get_info(uint64_t flags);
    void       vtpm_free_info(char *info);
    int        vtpm_has_profiles(void);

    uint32_t       vtpm_locality;
    unsigned char *vtpm_response;
    uint32_t       vtpm_response_size;

    extern "Python" TPM_RESULT vtpm_nvram_load(unsigned char **data, uint32_t *length, const char *name);
    extern "Python" TPM_RESULT vtpm_nvram_store(const unsigned char *data, uint32_t length, const char *name);
    extern "Python" TPM_RESULT vtpm_nvram_delete(const char *name, TPM_BOOL must_exist);

    TPM_RESULT TPM_Malloc(unsigned char **buffer, uint32_t size);
    """
)

ffibuilder.set_source(
    "swtpm_svc.tpm._libtpms",
    """
    #include <stdint.h>
    #include <stdlib.h>
    #include <libtpms/tpm_types.h>
    #include <libtpms/tpm_library.h>
    #include <libtpms/tpm_error.h>
    #include <libtpms/tpm_memory.h>
    #include <libtpms/tpm_tis.h>

    #pragma weak TPMLIB_SetProfile
    extern TPM_RESULT TPMLIB_SetProfile(const char *profile);

    static uint32_t vtpm_locality;
    static unsigned char *vtpm_response;       /* libtpms's buffer: grown by it, reused for every command */
    static uint32_t vtpm_response_size;
    static uint32_t vtpm_response_capacity;

    static TPM_RESULT vtpm_nvram_load(unsigned char **data, uint32_t *length, const char *name);
    static TPM_RESULT vtpm_nvram_store(const unsigned char *data, uint32_t length, const char *name);
    static TPM_RESULT vtpm_nvram_delete(const char *name, TPM_BOOL must_exist);

    static TPM_RESULT on_init(void) { return TPM_SUCCESS; }
    static TPM_RESULT on_load(unsigned char **data, uint32_t *length, uint32_t number, const char *name)
    { (void)number; return vtpm_nvram_load(data, length, name); }
    static TPM_RESULT on_store(const unsigned char *data, uint32_t length, uint32_t number, const char *name)
    { (void)number; return vtpm_nvram_store(data, length, name); }
    static TPM_RESULT on_delete(uint32_t number, const char *name, TPM_BOOL must_exist)
    { (void)number; return vtpm_nvram_delete(name, must_exist); }
    static TPM_RESULT on_locality(TPM_MODIFIER_INDICATOR *locality, uint32_t number)
    { (void)number; *locality = vtpm_locality; return TPM_SUCCESS; }
    static TPM_RESULT on_presence(TPM_BOOL *presence, uint32_t number)
    { (void)number; *presence = FALSE; return TPM_SUCCESS; }

    static TPM_RESULT vtpm_choose(int tpm2)
    { return TPMLIB_ChooseTPMVersion(tpm2 ? TPMLIB_TPM_VERSION_2 : TPMLIB_TPM_VERSION_1_2); }

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

    static char *vtpm_get_info(uint64_t flags) { return TPMLIB_GetInfo((enum TPMLIB_InfoFlags)flags); }
    static void vtpm_free_info(char *info) { free(info); }
    static int vtpm_has_profiles(void) { return TPMLIB_SetProfile != NULL; }
    """,
    libraries=["tpms"],
    extra_compile_args=["-O2"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
