/* Locks of files that misbehave, for LD_PRELOAD: flock, lockf and the locks of fcntl.
 *
 *   -DENOSYS_ALWAYS   they fail with ENOSYS, as on Lustre mounted with noflock
 *   otherwise         they succeed and lock nothing, as on an NFS server whose lock manager lies
 *
 * FLOCK_SHIM_UNDER=DIR in the environment: only for files below DIR, the way it is where one filesystem of several
 * misbehaves. Go programs and static ones make their system calls themselves and are not reached.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_meant(int fd) {
    const char *under = getenv("FLOCK_SHIM_UNDER");
    char link[64], path[PATH_MAX];
    size_t length = under ? strlen(under) : 0;
    ssize_t size;
    if (length == 0)
        return 1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    size = readlink(link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return strncmp(path, under, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int misbehave(void) {
#ifdef ENOSYS_ALWAYS
    errno = ENOSYS;
    return -1;
#else
    return 0;
#endif
}

int flock(int fd, int operation) {
    return is_meant(fd) ? misbehave() : REAL(flock)(fd, operation);
}

int lockf(int fd, int operation, off_t length) {
    return is_meant(fd) ? misbehave() : REAL(lockf)(fd, operation, length);
}

int lockf64(int fd, int operation, off64_t length) {
    return is_meant(fd) ? misbehave() : REAL(lockf64)(fd, operation, length);
}

static int lock_by_fcntl(int fd, int command, void *argument, int (*real)(int, int, ...)) {
    switch (command) {
    case F_GETLK:
    case F_OFD_GETLK:
        if (is_meant(fd)) {
            ((struct flock *)argument)->l_type = F_UNLCK;
            return misbehave();
        }
        break;
    case F_SETLK:
    case F_SETLKW:
    case F_OFD_SETLK:
    case F_OFD_SETLKW:
        if (is_meant(fd))
            return misbehave();
    }
    return real(fd, command, argument);
}

/* What comes after the command is a word or a pointer, or is missing; a pointer's width serves for all three. */
#define ARGUMENT(last, name) \
    va_list rest;            \
    void *name;              \
    va_start(rest, last);    \
    name = va_arg(rest, void *); \
    va_end(rest)

int fcntl(int fd, int command, ...) {
    ARGUMENT(command, argument);
    return lock_by_fcntl(fd, command, argument, REAL(fcntl));
}

int fcntl64(int fd, int command, ...) {
    ARGUMENT(command, argument);
    return lock_by_fcntl(fd, command, argument, REAL(fcntl64));
}
