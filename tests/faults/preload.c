/* Faults between a process and its kernel, for processes of the fault campaign (control.py, which has the same layout).
 *
 * Loaded with LD_PRELOAD into everything that the launcher starts. A process finds its own slot of the control file by
 * its command line (`run smtp .../mail-0.json` is mail-0/smtp); one without a slot is left alone. What a slot says counts
 * at once, and only for files of a volume:
 *
 *   hold           a process that starts waits before its first instruction; it says so with its process id
 *   sync_delay     a sync takes so many microseconds longer
 *   write_error    a write fails with this error number and writes nothing
 *   sync_error     a sync fails with this error number
 *   torn           the next write to a segment writes half of its bytes; then the process is killed
 *   clock_offset   nanoseconds that the clock of the day is wrong; the monotonic clock is right
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 64
#define DESCRIPTORS 65536

struct slot {
    char name[64];
    int64_t sync_delay;
    int64_t clock_offset;
    int32_t hold;
    int32_t held;
    int32_t write_error;
    int32_t sync_error;
    int32_t torn;
    int32_t unused[7];
};

static volatile struct slot *mine;
static unsigned char kind[DESCRIPTORS]; /* 0: not of a volume, 1: of a volume, 2: a segment */

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CACHED(name) \
    static __typeof__(&name) real; \
    if (!real) real = REAL(name)

static void remember(int fd, const char *path)
{
    if (fd < 0 || fd >= DESCRIPTORS) return;
    const char *volume = strstr(path, "/volume");
    int ours = volume && (volume[7] == '/' || volume[7] == 0);
    size_t length = strlen(path);
    kind[fd] = !ours ? 0 : length > 8 && !strcmp(path + length - 8, ".segment") ? 2 : 1;
}

static int of_volume(int fd) { return mine && fd >= 0 && fd < DESCRIPTORS ? kind[fd] : 0; }

static void find_slot(const char *arguments, ssize_t length, struct slot *slots)
{
    const char *end = arguments + length;
    for (const char *at = arguments; at < end; at += strlen(at) + 1) {
        if (strcmp(at, "run")) continue;
        const char *role = at + 4;
        if (role >= end) return;
        const char *file = role + strlen(role) + 1;
        if (file >= end) return;
        const char *base = strrchr(file, '/');
        base = base ? base + 1 : file;
        const char *dot = strrchr(base, '.');
        size_t server = dot ? (size_t)(dot - base) : strlen(base);
        char name[64] = {0};
        if (server + 1 + strlen(role) >= sizeof name) return;
        memcpy(name, base, server);
        name[server] = '/';
        strcpy(name + server + 1, role);
        for (int i = 0; i < SLOTS; i++)
            if (!strcmp(slots[i].name, name)) mine = &slots[i];
        return;
    }
}

__attribute__((constructor)) static void begin(void)
{
    const char *path = getenv("FAULTS_CONTROL");
    if (!path) return;
    int control = REAL(open64)(path, O_RDWR | O_CLOEXEC);
    if (control < 0) return;
    struct slot *slots = mmap(NULL, SLOTS * sizeof(struct slot), PROT_READ | PROT_WRITE, MAP_SHARED, control, 0);
    REAL(close)(control);
    if (slots == MAP_FAILED) return;
    static char arguments[8192];
    int fd = REAL(open64)("/proc/self/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t length = read(fd, arguments, sizeof arguments - 1);
    REAL(close)(fd);
    if (length > 0) find_slot(arguments, length, slots);
    while (mine && mine->hold) {
        mine->held = getpid();
        usleep(2000);
    }
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        CACHED(name); \
        va_list list; \
        va_start(list, flags); \
        mode_t mode = va_arg(list, mode_t); \
        va_end(list); \
        int fd = real(path, flags, mode); \
        remember(fd, path); \
        return fd; \
    }
OPEN(open)
OPEN(open64)

int close(int fd)
{
    CACHED(close);
    if (fd >= 0 && fd < DESCRIPTORS) kind[fd] = 0; /* the number may be a socket's next */
    return real(fd);
}

static int failed_write(int fd)
{
    if (!of_volume(fd) || !mine->write_error) return 0;
    errno = mine->write_error;
    return 1;
}

/* Half of what was to be written, and the end. */
static void tear(int fd, const struct iovec *parts, int count, off64_t offset)
{
    if (of_volume(fd) != 2 || !mine->torn) return;
    mine->torn = 0;
    size_t whole = 0;
    for (int i = 0; i < count; i++) whole += parts[i].iov_len;
    size_t left = whole / 2;
    for (int i = 0; i < count && left; i++) {
        size_t some = parts[i].iov_len < left ? parts[i].iov_len : left;
        if (REAL(pwrite64)(fd, parts[i].iov_base, some, offset) < 0) break;
        offset += some;
        left -= some;
    }
    kill(getpid(), SIGKILL);
}

ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off64_t offset, int flags)
{
    CACHED(pwritev64v2);
    if (failed_write(fd)) return -1;
    tear(fd, parts, count, offset);
    return real(fd, parts, count, offset, flags);
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
    CACHED(pwrite64);
    if (failed_write(fd)) return -1;
    struct iovec part = {(void *)data, length};
    tear(fd, &part, 1, offset);
    return real(fd, data, length, offset);
}

ssize_t write(int fd, const void *data, size_t length)
{
    CACHED(write);
    return failed_write(fd) ? -1 : real(fd, data, length);
}

#define SYNC(name) \
    int name(int fd) \
    { \
        CACHED(name); \
        if (of_volume(fd)) { \
            if (mine->sync_delay) usleep(mine->sync_delay); \
            if (mine->sync_error) { \
                errno = mine->sync_error; \
                return -1; \
            } \
        } \
        return real(fd); \
    }
SYNC(fsync)
SYNC(fdatasync)

static void shift(int64_t *seconds, int64_t *nanoseconds)
{
    int64_t whole = *seconds * 1000000000 + *nanoseconds + mine->clock_offset;
    *seconds = whole / 1000000000;
    *nanoseconds = whole % 1000000000;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    CACHED(clock_gettime);
    int done = real(clock, now);
    if (!done && mine && mine->clock_offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t seconds = now->tv_sec, nanoseconds = now->tv_nsec;
        shift(&seconds, &nanoseconds);
        now->tv_sec = seconds;
        now->tv_nsec = nanoseconds;
    }
    return done;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec exact;
    (void)zone;
    int done = clock_gettime(CLOCK_REALTIME, &exact);
    if (!done) {
        now->tv_sec = exact.tv_sec;
        now->tv_usec = exact.tv_nsec / 1000;
    }
    return done;
}

time_t time(time_t *out)
{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (out) *out = exact.tv_sec;
    return exact.tv_sec;
}
