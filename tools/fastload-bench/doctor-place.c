/*
 * fastload-bench doctor: storage, and the snapshot on it.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * For a file: whether this user may read it, which storage it is on, whether it
 * is a snapshot that can be loaded fast, and whether this host has room for it.
 * For a folder: which storage it is on.  Reads headers, bitmaps and one page;
 * writes nothing (a folder is tried with an unnamed temporary file).
 */
#include "bench.h"
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#ifndef SYS_cachestat
#define SYS_cachestat 451 /* the same on every architecture */
#endif

#define DIRECT_ALIGN 4096u   /* of the engine's reads */

typedef struct Place {
    const Doctor *doctor;
    struct stat st;
    int fd;                  /* of the file, or -1 */
    JsonObject *env;         /* of environment_new() */
} Place;

/* ---- what it lies on ---- */

DoctorFs doctor_fs_kind(const char *type)
{
    static const char *const far[] = {
        "nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "virtiofs", "lustre",
        "glusterfs", "ocfs2", "gfs2", "afs", "orangefs", NULL,
    };
    static const char *const memory[] = {
        "tmpfs", "ramfs", "hugetlbfs", "devtmpfs", NULL,
    };

    if (g_strv_contains(far, type) || !strcmp(type, "fuse") ||
        g_str_has_prefix(type, "fuse.") || !strcmp(type, "fuseblk")) {
        return DOCTOR_FS_FAR;
    }
    return g_strv_contains(memory, type) ? DOCTOR_FS_MEMORY : DOCTOR_FS_LOCAL;
}

/* A line of the disk's queue; a partition has that of its disk. */
static char *disk_line(const Doctor *doctor, const char *name,
                       const char *what)
{
    g_autofree char *own = g_strdup_printf("/sys/class/block/%s/queue/%s",
                                           name, what);
    g_autofree char *whole = g_strdup_printf(
        "/sys/class/block/%s/../queue/%s", name, what);
    char *line = doctor_line(doctor, own);

    return line ? line : doctor_line(doctor, whole);
}

DoctorDisk doctor_disk_kind(const Doctor *doctor, const char *name)
{
    g_autofree char *rotational = disk_line(doctor, name, "rotational");

    if (!rotational) {
        return DOCTOR_DISK_UNKNOWN;
    }
    if (g_str_has_prefix(name, "nbd") || g_str_has_prefix(name, "rbd") ||
        g_str_has_prefix(name, "drbd")) {
        return DOCTOR_DISK_NETWORK;
    }
    /* Virtual disks do not know the storage behind them. */
    if (g_str_has_prefix(name, "vd") || g_str_has_prefix(name, "xvd") ||
        g_str_has_prefix(name, "loop")) {
        return DOCTOR_DISK_VIRTUAL;
    }
    if (*rotational == '1') {
        return DOCTOR_DISK_ROTATING;
    }
    return g_str_has_prefix(name, "nvme") ? DOCTOR_DISK_NVME
                                          : DOCTOR_DISK_SOLID;
}

static void say_disk(const Place *place)
{
    static const char *const words[] = {
        [DOCTOR_DISK_UNKNOWN] = "of an unknown kind",
        [DOCTOR_DISK_ROTATING] = "a rotating disk: each fault may take a seek "
                                 "of 10 ms",
        [DOCTOR_DISK_SOLID] = "a solid state disk",
        [DOCTOR_DISK_NVME] = "an NVMe disk",
        [DOCTOR_DISK_NETWORK] = "a disk of the network: as much is in flight "
                                "as its round trips need",
        [DOCTOR_DISK_VIRTUAL] = "a virtual disk: what is behind it is not "
                                "told",
    };
    const char *name = tree_text(place->env, "device");
    const char *scheduler = tree_text(place->env, "scheduler");
    DoctorDisk kind = doctor_disk_kind(place->doctor, name);

    if (!*name) {
        doctor_say(place->doctor, "disk", DOCTOR_UNKNOWN, NULL,
                   "none that is seen from here");
        return;
    }
    doctor_say(place->doctor, "disk", kind == DOCTOR_DISK_ROTATING
               ? DOCTOR_NO : kind == DOCTOR_DISK_UNKNOWN ? DOCTOR_UNKNOWN
               : DOCTOR_YES, NULL, "%s, %s%s%s", name, words[kind],
               *scheduler ? "; scheduler " : "", scheduler);
}

static void say_filesystem(const Place *place)
{
    const char *type = tree_text(place->env, "filesystem");

    if (S_ISBLK(place->st.st_mode)) {
        doctor_say(place->doctor, "filesystem", DOCTOR_UNKNOWN, NULL,
                   "none: a block device; a write to it is not noticed");
        return;
    }
    if (!*type) {
        doctor_say(place->doctor, "filesystem", DOCTOR_UNKNOWN, NULL,
                   "of an unknown kind");
        return;
    }
    switch (doctor_fs_kind(type)) {
    case DOCTOR_FS_FAR:
        doctor_say(place->doctor, "filesystem", DOCTOR_YES, NULL, "%s, of a "
                   "server or program: a fault takes a round trip, and brings "
                   "pages around it along", type);
        break;
    case DOCTOR_FS_MEMORY:
        doctor_say(place->doctor, "filesystem", DOCTOR_YES, NULL,
                   "%s: the snapshot takes memory besides the guest's", type);
        break;
    case DOCTOR_FS_LOCAL:
        doctor_say(place->doctor, "filesystem", DOCTOR_YES, NULL, "%s", type);
        break;
    }
}

/* Opens with O_DIRECT the file, or an unnamed file in the folder. */
static int direct_open(const Place *place)
{
    const char *path = place->doctor->open_path;

    return S_ISDIR(place->st.st_mode)
        ? open(path, O_TMPFILE | O_RDWR | O_CLOEXEC | O_DIRECT, 0600)
        : open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
}

/* Tries to read a page; 0 or a positive errno. */
static int direct_try(int fd)
{
    void *buf = NULL;
    int ret = 0;

    if (posix_memalign(&buf, DIRECT_ALIGN, DIRECT_ALIGN)) {
        return ENOMEM;
    }
    if (pread(fd, buf, DIRECT_ALIGN, 0) < 0) {
        ret = errno;
    }
    free(buf);
    return ret;
}

/* Alignment of offsets that the file system demands; 0: it does not tell. */
static uint32_t direct_alignment(int fd)
{
#ifdef STATX_DIOALIGN
    struct statx found = { 0 };

    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &found) == 0 &&
        found.stx_mask & STATX_DIOALIGN) {
        return found.stx_dio_offset_align;
    }
#endif
    return 0;
}

static void say_direct(const Place *place)
{
    const Doctor *doctor = place->doctor;
    int fd = direct_open(place);
    int ret = fd < 0 ? errno : direct_try(fd);
    uint32_t align = fd < 0 ? 0 : direct_alignment(fd);

    if (fd >= 0) {
        close(fd);
    }
    if (ret && ret != EINVAL && ret != EOPNOTSUPP) {
        doctor_say(doctor, "direct", DOCTOR_UNKNOWN, NULL,
                   "cannot be tried here: %s", g_strerror(ret));
    } else if (ret) {
        doctor_say(doctor, "direct", DOCTOR_NO, NULL, "%s: all is read "
                   "through the page cache, and direct-io is refused",
                   fd < 0 ? "this file system has none" : "a read of 4 KiB "
                   "fails");
    } else if (align > DIRECT_ALIGN) {
        doctor_say(doctor, "direct", DOCTOR_NO, NULL, "demands reads of %u "
                   "bytes: all is read through the page cache, and direct-io "
                   "cannot be used", align);
    } else if (align) {
        doctor_say(doctor, "direct", DOCTOR_YES, NULL, "aligned to %u bytes: "
                   "cold data is read around the page cache, and direct-io "
                   "works", align);
    } else {
        doctor_say(doctor, "direct", DOCTOR_YES, NULL, "works when tried; its "
                   "alignment is not told");
    }
}

/*
 * The kernel tells only the owner of a file, and users who may write to it, how
 * much of it is cached.  For a folder, a temporary file stands for its files.
 */
static void say_cachestat(const Place *place)
{
    const Doctor *doctor = place->doctor;
    uint64_t range[2] = { 0, 0 }, cached[5];
    bool is_folder = S_ISDIR(place->st.st_mode);
    int fd = is_folder ? memfd_create("doctor", MFD_CLOEXEC) : place->fd;
    int ret = syscall(SYS_cachestat, fd, range, cached, 0) < 0 ? errno : 0;

    if (is_folder && fd >= 0) {
        close(fd);
    }
    if (!ret) {
        doctor_say(doctor, "cachestat", DOCTOR_YES, NULL, "what the page "
                   "cache has is taken from there, the rest read around it");
    } else if (ret == EPERM && !is_folder && place->st.st_uid != geteuid()) {
        g_autofree char *path = g_shell_quote(doctor->open_path);

        doctor_say(doctor, "cachestat", DOCTOR_NO,
                   g_strdup_printf("sudo chown %s %s", doctor->user, path),
                   "the kernel tells what is cached to the file's owner and "
                   "to those who may write it alone: all is read through the "
                   "page cache, where direct-io is off");
    } else {
        doctor_say(doctor, "cachestat", DOCTOR_NO, NULL, ret == ENOSYS
                   ? "Linux 6.5 has it; without, all is read through the page "
                   "cache, where direct-io is off"
                   : "is refused: all is read through the page cache, where "
                   "direct-io is off");
    }
}

static void say_space(const Place *place, uint64_t need_bytes)
{
    g_autofree char *folder = S_ISDIR(place->st.st_mode)
        ? g_strdup(place->doctor->open_path)
        : g_path_get_dirname(place->doctor->open_path);
    g_autofree char *rest = NULL, *need = NULL;
    struct statvfs fs;
    uint64_t free_bytes;

    if (statvfs(folder, &fs) < 0) {
        return;
    }
    free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    rest = text_bytes(free_bytes);
    need = text_bytes(need_bytes);
    if (!need_bytes) {
        doctor_say(place->doctor, "space", DOCTOR_YES, NULL,
                   "%s; a load needs none", rest);
    } else {
        doctor_say(place->doctor, "space", free_bytes < need_bytes
                   ? DOCTOR_NO : DOCTOR_YES, NULL, "%s; a load needs none, "
                   "saving another such file takes %s", rest, need);
    }
}

/* ---- the snapshot ---- */

uint64_t doctor_hole_count(const Snapshot *snapshot)
{
    const uint64_t words_a_chunk = BENCH_HUGE_BYTES / BENCH_PAGE_BYTES / 64;
    uint64_t chunk_count = snapshot->guest_bytes / BENCH_HUGE_BYTES;
    uint64_t count = 0, i, w;
    bool was_hole = false;

    for (i = 0; i < chunk_count; i++) {
        uint64_t bits = 0;

        for (w = 0; w < words_a_chunk; w++) {
            bits |= snapshot->data_bits[i * words_a_chunk + w];
        }
        count += !bits && !was_hole;
        was_hole = !bits;
    }
    return count;
}

/* A value of /proc/meminfo in bytes. */
static uint64_t meminfo_bytes(const Doctor *doctor, const char *key)
{
    g_autofree char *path = g_strconcat(doctor->root, "/proc/meminfo", NULL);
    g_autofree char *text = NULL;
    const char *at;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return 0;
    }
    at = strstr(text, key);
    return at ? g_ascii_strtoull(at + strlen(key), NULL, 10) << 10 : 0;
}

/* Data will take memory for sure; zero pages only if the guest writes them. */
static void say_memory(const Place *place, const Snapshot *snapshot)
{
    const Doctor *doctor = place->doctor;
    uint64_t available = meminfo_bytes(doctor, "MemAvailable:");
    uint64_t swap = meminfo_bytes(doctor, "SwapFree:");
    g_autofree char *ram = text_bytes(snapshot->len_bytes);
    g_autofree char *data = text_bytes(snapshot->data_bytes);
    g_autofree char *rest = NULL;
    bool is_cgroup;
    CgroupMemory memory;
    uint64_t least;

    cgroup_get_memory(doctor->root, &memory);
    is_cgroup = memory.free_bytes < available + swap;
    least = is_cgroup ? memory.free_bytes : available;
    rest = text_bytes(least);
    doctor_say(doctor, "memory",
               snapshot->data_bytes > least + (is_cgroup ? 0 : swap)
               ? DOCTOR_MISSING : snapshot->len_bytes > least ? DOCTOR_NO
               : DOCTOR_YES, NULL, "%s%s, for %s of data and up to %s that "
               "the guest may write", rest, is_cgroup ? " in this cgroup" : "",
               data, ram);
}

static void say_memlock(const Place *place, const Snapshot *snapshot)
{
    struct rlimit limit = { 0, 0 };
    g_autofree char *most = NULL;
    bool has_enough;

    getrlimit(RLIMIT_MEMLOCK, &limit);
    has_enough = limit.rlim_cur == RLIM_INFINITY ||
                 limit.rlim_cur > snapshot->len_bytes ||
                 doctor_has_capability(place->doctor, CAP_IPC_LOCK);
    most = text_bytes(limit.rlim_cur);
    doctor_say(place->doctor, "memlock", has_enough ? DOCTOR_YES : DOCTOR_NO,
               NULL, has_enough ? "all of the guest may be locked "
               "(-overcommit mem-lock=on)" : "ulimit -l is %s: -overcommit "
               "mem-lock=on would fail, without it there is no need", most);
}

static void say_machine(const Place *place, const Snapshot *snapshot)
{
    g_autofree char *state = snapshot_run_state(snapshot);

    if (*snapshot->machine) {
        doctor_say(place->doctor, "machine", DOCTOR_YES, NULL, "machine type "
                   "%s, which the QEMU that loads needs as well",
                   snapshot->machine);
    } else {
        doctor_say(place->doctor, "machine", DOCTOR_UNKNOWN, NULL,
                   "the file does not name the machine type");
    }
    if (!state) {
        doctor_say(place->doctor, "run-state", DOCTOR_UNKNOWN, NULL,
                   "the file does not tell");
    } else if (!strcmp(state, "running")) {
        doctor_say(place->doctor, "run-state", DOCTOR_YES, NULL,
                   "the guest runs as soon as it may");
    } else {
        doctor_say(place->doctor, "run-state", DOCTOR_NO, NULL, "saved '%s': "
                   "it stays so until it is told to go on (cont)", state);
    }
}

static void say_holes(const Place *place, const Snapshot *snapshot)
{
    uint64_t count = doctor_hole_count(snapshot), map_count = 0;
    bool has_enough = !doctor_number(place->doctor,
                                     "/proc/sys/vm/max_map_count",
                                     &map_count) ||
                      count <= map_count / DOCTOR_SPAN_SHARE;

    doctor_say(place->doctor, "holes", has_enough ? DOCTOR_YES : DOCTOR_NO,
               has_enough ? NULL : g_strdup_printf(
                   "sudo sysctl vm.max_map_count=%" PRIu64,
                   count * DOCTOR_SPAN_SHARE),
               "%" PRIu64 " of 2 MiB and more%s", count, !count ? ""
               : has_enough ? ": neither read nor trapped"
               : ": some are trapped, for want of mappings");
}

/* Takes over place->fd. */
static void say_snapshot(Place *place)
{
    const Doctor *doctor = place->doctor;
    g_autoptr(GError) error = NULL;
    g_autoptr(Snapshot) snapshot = snapshot_open_fd(
        place->fd, doctor->open_path, doctor->path, &error);
    g_autofree char *ram = NULL, *data = NULL;

    place->fd = -1;
    if (S_ISREG(place->st.st_mode)) {
        say_space(place, place->st.st_blocks * 512ull);
    }
    if (!snapshot) {
        doctor_say(doctor, "snapshot", DOCTOR_MISSING, NULL, "%s",
                   error->message);
        return;
    }
    ram = text_bytes(snapshot->len_bytes);
    data = text_bytes(snapshot->data_bytes);
    doctor_say(doctor, "snapshot", DOCTOR_YES, NULL, "%s of RAM, %s of them "
               "data, in %u block%s", ram, data, snapshot->block_count,
               snapshot->block_count == 1 ? "" : "s");
    say_machine(place, snapshot);
    say_memory(place, snapshot);
    say_memlock(place, snapshot);
    say_holes(place, snapshot);
}

/* ---- getting there ---- */

/* The first folder of the path that this user may not search; or NULL. */
static char *closed_folder(const char *path)
{
    g_autofree char *way = g_strdup(path);
    char *at = way;

    while ((at = strchr(at + 1, '/'))) {
        *at = '\0';
        if (access(way, X_OK) < 0 && errno == EACCES) {
            return g_strdup(way);
        }
        *at = '/';
    }
    return NULL;
}

/* Opens the path; false: there is nothing to examine. */
static bool place_open(Place *place)
{
    const Doctor *doctor = place->doctor;
    const char *path = doctor->open_path;
    int error_number = 0;

    if (stat(path, &place->st) < 0) {
        error_number = errno;
    } else if (!S_ISDIR(place->st.st_mode) &&
               !S_ISREG(place->st.st_mode) && !S_ISBLK(place->st.st_mode)) {
        doctor_say(doctor, "path", DOCTOR_MISSING, NULL, "%s is neither a "
                   "file nor a block device", doctor->path);
        return false;
    } else {
        place->fd = open(path, O_RDONLY | O_CLOEXEC);
        error_number = place->fd < 0 ? errno : 0;
    }
    if (error_number) {
        g_autofree char *folder = error_number == EACCES
            ? closed_folder(path) : NULL;
        g_autofree char *closed = g_shell_quote(folder ? folder : path);

        doctor_say(doctor, "path", DOCTOR_MISSING, error_number == EACCES
                   ? g_strdup_printf("sudo setfacl -m u:%s:%c %s",
                                     doctor->user, folder ? 'x' : 'r', closed)
                   : NULL, "%s: %s%s%s", doctor->path ? doctor->path : path,
                   g_strerror(error_number), folder ? ", by the folder " : "",
                   folder ? folder : "");
        return false;
    }
    doctor_say(doctor, "path", DOCTOR_YES, NULL, "%s", S_ISDIR(
                   place->st.st_mode) ? "a folder; name a snapshot to hear "
               "about it as well" : "by this user");
    return true;
}

void doctor_place_probe(const Doctor *doctor)
{
    Place place = { .doctor = doctor, .fd = -1 };

    if (!place_open(&place)) {
        return;
    }
    place.env = environment_new(doctor->open_path);
    say_filesystem(&place);
    say_disk(&place);
    say_direct(&place);
    say_cachestat(&place);
    if (S_ISDIR(place.st.st_mode)) {
        say_space(&place, 0);
    } else {
        say_snapshot(&place);
    }
    json_object_unref(place.env);
    if (place.fd >= 0) {
        close(place.fd);
    }
}
