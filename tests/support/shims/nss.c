/* A user database that is no file of /etc, as LDAP or SSSD, for glibc's name service switch. It goes by the name of
 * hesiod, a module that every glibc brings and nobody uses, so that it can be mounted over that.
 *
 *   -DDIRECTORY="..."  its users and groups are those of passwd and group there
 *   hang               where that is, no answer comes: the server is gone
 *   asked              has a byte more for each question
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <nss.h>
#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

static FILE *opened(const char *name) {
    int asked = open(DIRECTORY "/asked", O_WRONLY | O_APPEND | O_CLOEXEC);
    if (asked >= 0) {
        if (write(asked, "?", 1) < 0)
            perror(DIRECTORY);
        close(asked);
    }
    while (access(DIRECTORY "/hang", F_OK) == 0)
        sleep(1000);
    return fopen(name, "re");
}

enum nss_status _nss_hesiod_getpwuid_r(uid_t uid, struct passwd *result, char *buffer, size_t size, int *error) {
    struct passwd *found = NULL;
    FILE *file = opened(DIRECTORY "/passwd");
    int status = 0;
    while (file && (status = fgetpwent_r(file, result, buffer, size, &found)) == 0 && result->pw_uid != uid)
        found = NULL;
    if (file)
        fclose(file);
    *error = status;
    return status == ERANGE ? NSS_STATUS_TRYAGAIN : found ? NSS_STATUS_SUCCESS : NSS_STATUS_NOTFOUND;
}

enum nss_status _nss_hesiod_getgrgid_r(gid_t gid, struct group *result, char *buffer, size_t size, int *error) {
    struct group *found = NULL;
    FILE *file = opened(DIRECTORY "/group");
    int status = 0;
    while (file && (status = fgetgrent_r(file, result, buffer, size, &found)) == 0 && result->gr_gid != gid)
        found = NULL;
    if (file)
        fclose(file);
    *error = status;
    return status == ERANGE ? NSS_STATUS_TRYAGAIN : found ? NSS_STATUS_SUCCESS : NSS_STATUS_NOTFOUND;
}
