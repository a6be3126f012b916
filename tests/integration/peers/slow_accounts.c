/*
 * Preloaded into a daemon: a directory service that is silent. The C library's questions about accounts are answered only while
 * the file that SLOW_ACCOUNTS names is missing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

static void wait_for_answer(void)
{
    const char *path = getenv("SLOW_ACCOUNTS");

    while (path != NULL && access(path, F_OK) == 0)
        usleep(10000);
}

#define ASK(result, name, parameters, arguments)                      \
    result name parameters                                            \
    {                                                                 \
        result(*ask) parameters = dlsym(RTLD_NEXT, #name);            \
        wait_for_answer();                                            \
        return ask arguments;                                         \
    }

ASK(int, getpwuid_r, (uid_t uid, struct passwd *entry, char *buffer, size_t size, struct passwd **found), (uid, entry, buffer, size, found))
ASK(int, getpwnam_r, (const char *name, struct passwd *entry, char *buffer, size_t size, struct passwd **found), (name, entry, buffer, size, found))
ASK(int, getgrnam_r, (const char *name, struct group *entry, char *buffer, size_t size, struct group **found), (name, entry, buffer, size, found))
ASK(int, getgrouplist, (const char *user, gid_t group, gid_t *groups, int *count), (user, group, groups, count))
