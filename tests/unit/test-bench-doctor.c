/*
 * The benchmark's doctor: causes of refusals, kinds of storage, what becomes of
 * probes that do not come back, and how reports are printed.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */
#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include <signal.h>
#include "bench.h"
#include "bench-tree.h"

#define PATIENCE_MS 60000    /* only a hang reaches it */

/* ---- trees of files that look like /proc and /sys ---- */

typedef struct Tree {
    char *root;
    Doctor doctor;
} Tree;

static void tree_set_up(Tree *tree, gconstpointer opaque)
{
    tree->root = g_dir_make_tmp("test-bench-doctor-XXXXXX", NULL);
    g_assert_nonnull(tree->root);
    tree->doctor.root = tree->root;
}

static void tree_tear_down(Tree *tree, gconstpointer opaque)
{
    tree_remove(tree->root);
    g_free(tree->root);
}

/* ---- causes ---- */

static void assert_has(const char *text, const char *word)
{
    if (!text || !strstr(text, word)) {
        g_test_message("'%s' should have '%s'", text, word);
        g_test_fail();
    }
}

static void test_causes_of_userfaultfd(void)
{
    /* Why userfaultfd is refused follows from what else is refused. */
    static const struct {
        DoctorRefusal refusal;
        const char *word;
    } causes[] = {
        { { EPERM, 0, EACCES, false, NULL }, "user mode alone" },
        { { EPERM, 0, EACCES, true, "p" }, "user mode alone" },
        { { EPERM, EPERM, ENOENT, true, NULL }, "a seccomp filter refuses" },
        { { EPERM, EPERM, ENOENT, true, "p" }, "filter or the profile 'p'" },
        { { EACCES, EACCES, ENOENT, false, "p" }, "profile 'p' of a security" },
        { { EINVAL, EINVAL, ENOENT, false, NULL }, "Invalid argument" },
        { { ENOSYS, ENOSYS, ENOENT, false, NULL }, "CONFIG_USERFAULTFD" },
        { { ENOSYS, ENOSYS, ENOENT, true, NULL }, "the seccomp filter hides" },
    };
    guint i;

    for (i = 0; i < G_N_ELEMENTS(causes); i++) {
        g_autofree char *text = doctor_trap_cause(&causes[i].refusal);

        assert_has(text, causes[i].word);
    }
}

static void test_causes_of_io_uring(void)
{
    /*
     * A refusal of io_uring is put down to the sysctl, then to filters; the
     * mend, if there is one, comes with it.
     */
    static const struct {
        DoctorRing ring;
        const char *word;
        const char *mend;
    } causes[] = {
        { { EPERM, 2, -1, true }, "io_uring_disabled is 2", "disabled=0" },
        { { EPERM, 2, 0, false }, "io_uring_disabled is 2", "disabled=0" },
        { { EPERM, 1, 0, false }, "io_uring_disabled is 1", "-aG root me" },
        { { EPERM, 1, -1, false }, "io_uring_disabled is 1", "disabled=0" },
        { { EPERM, 0, -1, true }, "a seccomp filter", NULL },
        { { EACCES, 0, -1, false }, "a security module", NULL },
        { { ENOSYS, 0, -1, true }, "hides it", NULL },
        { { ENOSYS, 0, -1, false }, "the kernel lacks it", NULL },
        { { ENOMEM, 0, -1, false }, "no locked memory", "ulimit -l" },
        { { EMFILE, 0, -1, false }, "no descriptor", "ulimit -n" },
        { { EIO, 0, -1, false }, "Input/output error", NULL },
    };
    guint i;

    for (i = 0; i < G_N_ELEMENTS(causes); i++) {
        g_autofree char *mend = NULL;
        g_autofree char *text = doctor_ring_cause(&causes[i].ring, "me",
                                                  &mend);

        assert_has(text, causes[i].word);
        if (causes[i].mend) {
            assert_has(mend, causes[i].mend);
        } else {
            g_assert_null(mend);
        }
    }
}

static void test_filters_and_profiles(Tree *tree, gconstpointer opaque)
{
    /* A security profile counts only if it is enforced. */
    static const struct {
        const char *current;
        const char *enforce;
        const char *profile;
    } cases[] = {
        { "unconfined\n", NULL, NULL },
        { "docker-default (enforce)\n", NULL, "docker-default (enforce)" },
        { "docker-default (complain)\n", NULL, NULL },
        { "firefox (unconfined)\n", NULL, NULL },
        { "system_u:system_r:svirt_t:s0:c1,c2", "1", "system_u:system_r:"
          "svirt_t:s0:c1,c2" },
        { "system_u:system_r:svirt_t:s0:c1,c2", "0", NULL },
        { "unconfined_u:unconfined_r:unconfined_t:s0", "1", NULL },
        { "", NULL, NULL },
    };
    guint i;

    g_assert_null(doctor_profile(&tree->doctor));
    g_assert_false(doctor_is_filtered(&tree->doctor));
    for (i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *profile = NULL;

        tree_write(tree->root, "/proc/self/attr/current", cases[i].current);
        if (cases[i].enforce) {
            tree_write(tree->root, "/sys/fs/selinux/enforce", cases[i].enforce);
        }
        profile = doctor_profile(&tree->doctor);
        g_assert_cmpstr(profile, ==, cases[i].profile);
    }
    tree_write(tree->root, "/proc/self/status", "Name:\tx\nSeccomp:\t0\n"
               "Seccomp_filters:\t3\n");
    g_assert_false(doctor_is_filtered(&tree->doctor));
    tree_write(tree->root, "/proc/self/status", "Name:\tx\nSeccomp:\t2\n");
    g_assert_true(doctor_is_filtered(&tree->doctor));
}

static void test_user_namespaces(Tree *tree, gconstpointer opaque)
{
    /* A user's id on the host comes from uid_map, if there is a namespace. */
    uint64_t uid = 0;

    g_assert_false(doctor_is_in_namespace(&tree->doctor, 7, &uid));
    g_assert_cmpuint(uid, ==, 7);
    tree_write(tree->root, "/proc/self/uid_map", "0 0 4294967295\n");
    g_assert_false(doctor_is_in_namespace(&tree->doctor, 7, &uid));
    g_assert_cmpuint(uid, ==, 7);
    tree_write(tree->root, "/proc/self/uid_map",
               "         0       1000          1\n"
               "         1     100000      65536\n");
    g_assert_true(doctor_is_in_namespace(&tree->doctor, 0, &uid));
    g_assert_cmpuint(uid, ==, 1000);
    g_assert_true(doctor_is_in_namespace(&tree->doctor, 7, &uid));
    g_assert_cmpuint(uid, ==, 100006);
    g_assert_false(doctor_has_capability(&tree->doctor, 0));
}

/* ---- storage ---- */

static void test_kinds_of_disks(Tree *tree, gconstpointer opaque)
{
    /* A disk's kind follows from name and queue; a partition has its disk's. */
    static const struct {
        const char *name;
        const char *rotational;
        DoctorDisk kind;
    } cases[] = {
        { "sda", "1\n", DOCTOR_DISK_ROTATING },
        { "sdb", "0\n", DOCTOR_DISK_SOLID },
        { "nvme0n1", "0\n", DOCTOR_DISK_NVME },
        { "nbd3", "0\n", DOCTOR_DISK_NETWORK },
        { "rbd0", "0\n", DOCTOR_DISK_NETWORK },
        { "vda", "1\n", DOCTOR_DISK_VIRTUAL },
        { "loop0", "1\n", DOCTOR_DISK_VIRTUAL },
    };
    g_autofree char *part = g_strconcat(tree->root, "/sys/class/block/sda1",
                                        NULL);
    guint i;

    g_assert_cmpint(doctor_disk_kind(&tree->doctor, "sda"), ==,
                    DOCTOR_DISK_UNKNOWN);
    for (i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf(
            "/sys/class/block/%s/queue/rotational", cases[i].name);

        tree_write(tree->root, path, cases[i].rotational);
        g_assert_cmpint(doctor_disk_kind(&tree->doctor, cases[i].name), ==,
                        cases[i].kind);
    }
    tree_write(tree->root, "/sys/devices/sda/queue/rotational", "1\n");
    tree_write(tree->root, "/sys/devices/sda/sda1/partition", "1\n");
    g_assert_cmpint(symlink("../../devices/sda/sda1", part), ==, 0);
    g_assert_cmpint(doctor_disk_kind(&tree->doctor, "sda1"), ==,
                    DOCTOR_DISK_ROTATING);
}

static void test_kinds_of_file_systems(void)
{
    /* File systems of servers, of programs and in memory are told apart. */
    g_assert_cmpint(doctor_fs_kind("ext4"), ==, DOCTOR_FS_LOCAL);
    g_assert_cmpint(doctor_fs_kind("fusion"), ==, DOCTOR_FS_LOCAL);
    g_assert_cmpint(doctor_fs_kind("nfs4"), ==, DOCTOR_FS_FAR);
    g_assert_cmpint(doctor_fs_kind("fuse.sshfs"), ==, DOCTOR_FS_FAR);
    g_assert_cmpint(doctor_fs_kind("fuse"), ==, DOCTOR_FS_FAR);
    g_assert_cmpint(doctor_fs_kind("virtiofs"), ==, DOCTOR_FS_FAR);
    g_assert_cmpint(doctor_fs_kind("tmpfs"), ==, DOCTOR_FS_MEMORY);
    g_assert_cmpint(doctor_fs_kind("ramfs"), ==, DOCTOR_FS_MEMORY);
}

static void test_runs_of_zeros(void)
{
    /* Chunks without data in a row count as one hole. */
    static const char *const maps[] = { "", "x", ".", "x.x", "..x..x..",
                                        "x....", "xxxx", ".x.x.x." };
    static const uint64_t counts[] = { 0, 0, 1, 1, 3, 1, 0, 4 };
    guint i, k;

    for (i = 0; i < G_N_ELEMENTS(maps); i++) {
        uint64_t bits[8 * 8] = { 0 };
        Snapshot snapshot = {
            .guest_bytes = strlen(maps[i]) * (uint64_t)BENCH_HUGE_BYTES,
            .data_bits = bits,
        };

        for (k = 0; maps[i][k]; k++) {
            /* One page of the 512 is enough, whichever it is. */
            bits[k * 8 + k % 8] = maps[i][k] == 'x' ? 1ull << (9 * k) : 0;
        }
        g_assert_cmpuint(doctor_hole_count(&snapshot), ==, counts[i]);
    }
}

/* ---- probes that say things, and probes that do not come back ---- */

static void probe_good(const Doctor *doctor)
{
    doctor_say(doctor, "trap", DOCTOR_YES, NULL, "%s", "as it should be");
}

static void probe_hang(const Doctor *doctor)
{
    for (;;) {
        pause();
    }
}

static void probe_crash(const Doctor *doctor)
{
    raise(SIGKILL);
}

static void probe_all(const Doctor *doctor)
{
    doctor_say(doctor, "trap", DOCTOR_MISSING,
               g_strdup("sudo setfacl -m u:somebody:rw /dev/userfaultfd"),
               "it is refused in both ways, and this sentence is long enough "
               "to take more than one line of an ordinary terminal");
    doctor_say(doctor, "uring", DOCTOR_NO,
               g_strdup("cat /averylongnameofafolder/andanother/andonemore/"
                        "nobodywouldthinkofsomanyfolders/and/a_file_of_them"),
               "%s", "/a/name/without/any/blank/that/is/longer/than/a/line/of/"
               "an/ordinary/terminal/which/has/eighty/columns");
    doctor_say(doctor, "kvm", DOCTOR_UNKNOWN, NULL, "-");
    doctor_say(doctor, "disk", DOCTOR_YES, NULL, "short");
}

static void probe_strange(const Doctor *doctor)
{
    doctor_say(doctor, "path", DOCTOR_MISSING, g_strdup("x '\377\033[31m'"),
               "a\nb\033[2J\377%s", "\"}");
    doctor_say(doctor, "no-such-check", DOCTOR_NO, NULL, "x");
}

static JsonNode *examine(DoctorProbe *const *probes, uint32_t patience_ms)
{
    Doctor doctor = { .root = "", .path = "x", .open_path = "x" };
    GError *error = NULL;
    JsonNode *report = doctor_examine(&doctor, NULL, probes, patience_ms,
                                      &error);

    g_assert_no_error(error);
    g_assert_nonnull(report);
    return report;
}

static JsonObject *finding_at(JsonNode *report, guint i)
{
    JsonArray *list = json_object_get_array_member(
        json_node_get_object(report), "checks");

    return i < json_array_get_length(list)
        ? json_array_get_object_element(list, i) : NULL;
}

static void test_findings_arrive(void)
{
    /* All findings arrive in order; a missing one makes the host not ready. */
    DoctorProbe *const good[] = { probe_good, NULL };
    DoctorProbe *const all[] = { probe_good, probe_all, NULL };
    g_autoptr(JsonNode) report = examine(good, PATIENCE_MS);
    g_autoptr(JsonNode) other = NULL;

    g_assert_true(doctor_is_ready(report));
    g_assert_true(json_object_get_boolean_member(
                      json_node_get_object(report), "ready"));
    g_assert_cmpstr(tree_text(finding_at(report, 0), "text"), ==,
                    "as it should be");
    g_assert_null(finding_at(report, 1));
    other = examine(all, PATIENCE_MS);
    g_assert_false(doctor_is_ready(other));
    g_assert_false(json_object_get_boolean_member(
                       json_node_get_object(other), "ready"));
    g_assert_cmpstr(tree_text(finding_at(other, 1), "verdict"), ==,
                    "missing");
    g_assert_cmpstr(tree_text(finding_at(other, 1), "mend"), ==,
                    "sudo setfacl -m u:somebody:rw /dev/userfaultfd");
    g_assert_cmpstr(tree_text(finding_at(other, 4), "id"), ==, "disk");
}

static void test_hang_is_told(void)
{
    /* A probe that hangs is ended; findings stay; the host is not ready. */
    DoctorProbe *const probes[] = { probe_good, probe_hang, probe_good, NULL };
    g_autoptr(JsonNode) report = examine(probes, 200);

    g_assert_cmpstr(tree_text(finding_at(report, 0), "id"), ==, "trap");
    g_assert_cmpstr(tree_text(finding_at(report, 1), "id"), ==, "answer");
    assert_has(tree_text(finding_at(report, 1), "text"), "did not answer");
    g_assert_null(finding_at(report, 2));
    g_assert_false(doctor_is_ready(report));
}

static void test_crash_is_told(void)
{
    /* After a probe's crash findings stay, and the host is not ready. */
    DoctorProbe *const probes[] = { probe_good, probe_crash, NULL };
    g_autoptr(JsonNode) report = examine(probes, PATIENCE_MS);

    g_assert_cmpstr(tree_text(finding_at(report, 0), "id"), ==, "trap");
    assert_has(tree_text(finding_at(report, 1), "text"), "signal 9");
    g_assert_false(doctor_is_ready(report));
}

static void test_nobody_to_become(void)
{
    /* A user that does not exist is wrong usage. */
    DoctorProbe *const probes[] = { probe_good, NULL };
    Doctor doctor = { .root = "", .open_path = "." };
    g_autoptr(GError) error = NULL;

    g_assert_null(doctor_examine(&doctor, "no such user", probes, PATIENCE_MS,
                                 &error));
    g_assert_error(error, BENCH_ERROR, BENCH_ERROR_USAGE);
    assert_has(error->message, "no such user");
}

/* ---- printing ---- */

static char *printed(JsonNode *report, uint32_t columns, bool has_colours)
{
    Paper paper;

    paper_open(&paper, columns, false);
    doctor_print(report, &paper, has_colours);
    return paper_close(&paper);
}

/* @text without what @pattern matches. */
static char *without(const char *text, const char *pattern)
{
    g_autoptr(GRegex) regex = g_regex_new(pattern, 0, 0, NULL);

    return g_regex_replace_literal(regex, text, -1, 0, "", 0, NULL);
}

static void test_lines_fit(void)
{
    /* With any number of columns no line is longer, and nothing is lost. */
    DoctorProbe *const probes[] = { probe_all, NULL };
    g_autoptr(JsonNode) report = examine(probes, PATIENCE_MS);
    g_autofree char *whole = printed(report, 0, false);
    g_autofree char *bare = without(whole, "[\\s\\\\]+");
    uint32_t columns;

    for (columns = 20; columns <= 200; columns++) {
        g_autofree char *text = printed(report, columns, false);
        g_autofree char *letters = without(text, "[\\s\\\\]+");
        g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
        guint i;

        for (i = 0; lines[i]; i++) {
            g_assert_cmpuint(strlen(lines[i]), <=, columns);
            g_assert_false(g_str_has_suffix(lines[i], " "));
        }
        g_assert_cmpstr(letters, ==, bare);
    }
}

static void test_commands_can_be_pasted(void)
{
    /* A command that is broken into lines is the same for a shell. */
    DoctorProbe *const probes[] = { probe_all, NULL };
    g_autoptr(JsonNode) report = examine(probes, PATIENCE_MS);
    uint32_t columns;

    for (columns = 20; columns <= 120; columns++) {
        g_autofree char *text = printed(report, columns, false);
        const char *at = text;
        guint i;

        for (i = 0; i < 2; i++) {
            g_autofree char *joined = NULL, *command = NULL;
            g_auto(GStrv) argv = NULL, wanted = NULL;
            const char *end;

            at = strstr(at, "mend: ");
            g_assert_nonnull(at);
            at += strlen("mend: ");
            end = strchr(at, '\n');
            while (end[-1] == '\\') {
                end = strchr(end + 1, '\n');
            }
            command = g_strndup(at, end - at);
            joined = without(command, "\\\\\n");
            g_assert_true(g_shell_parse_argv(joined, NULL, &argv, NULL));
            g_assert_true(g_shell_parse_argv(
                tree_text(finding_at(report, i), "mend"), NULL, &wanted,
                NULL));
            g_assert_true(g_strv_equal((const char *const *)argv,
                                       (const char *const *)wanted));
        }
    }
}

static void test_colours_are_no_sign(void)
{
    /* A report without its colours equals one that never had any. */
    DoctorProbe *const probes[] = { probe_all, NULL };
    g_autoptr(JsonNode) report = examine(probes, PATIENCE_MS);
    g_autofree char *plain = printed(report, 80, false);
    g_autofree char *coloured = printed(report, 80, true);
    g_autofree char *bare = without(coloured, "\033\\[[0-9;]*m");

    g_assert_null(strchr(plain, '\033'));
    g_assert_nonnull(strchr(coloured, '\033'));
    g_assert_cmpstr(bare, ==, plain);
    assert_has(plain, "\n  NO   userfaultfd");
    assert_has(plain, "\n  no   io_uring");
    assert_has(plain, "\n  -    /dev/kvm");
    assert_has(plain, "\n  yes  disk");
    assert_has(plain, "\nNot ready");
    assert_has(plain, "before it: userfaultfd.");
}

static void test_strange_bytes(void)
{
    /* Strange bytes in names of files cannot control a terminal. */
    DoctorProbe *const probes[] = { probe_strange, NULL };
    g_autoptr(JsonNode) report = examine(probes, PATIENCE_MS);
    g_autofree char *text = printed(report, 80, false);
    g_autofree char *json = result_text(report);

    g_assert_null(strchr(text, '\033'));
    g_assert_true(g_utf8_validate(json, -1, NULL));
    assert_has(tree_text(finding_at(report, 0), "text"), "a\nb");
    g_assert_cmpstr(tree_text(finding_at(report, 1), "id"), ==,
                    "no-such-check");
}

/* ---- a QEMU ---- */

/* A program that says that and ends, or stays. */
static JsonNode *examine_qemu(const Tree *tree, const char *said, bool stays,
                              uint32_t most_ms)
{
    g_autofree char *path = g_build_filename(tree->root, "qemu", NULL);
    g_autofree char *script = g_strdup_printf(
        "#!/bin/sh\ncat <<'END'\n%s\nEND\n%s", said,
        stays ? "exec sleep 1000\n" : "head -n 4 >/dev/null\n");
    DoctorProbe *const probes[] = { doctor_qemu_probe, NULL };
    Doctor doctor = {
        .root = "", .open_path = ".", .qemu_path = path, .qemu_ms = most_ms,
    };
    GError *error = NULL;
    JsonNode *report;

    tree_write(tree->root, "/qemu", script);
    g_assert_cmpint(g_chmod(path, 0700), ==, 0);
    report = doctor_examine(&doctor, NULL, probes, PATIENCE_MS, &error);
    g_assert_no_error(error);
    return report;
}

#define GREETING "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, " \
                 "\"minor\": 2, \"major\": 10}, \"package\": \"\"}, " \
                 "\"capabilities\": [\"oob\"]}}\n"
#define CAPABILITIES "{\"return\": [{\"state\": false, \"capability\": " \
                     "\"xbzrle\"}, {\"state\": false, \"capability\": " \
                     "\"mapped-ram\"}], \"id\": \"caps\"}\n"

static void test_qemus(Tree *tree, gconstpointer opaque)
{
    /* QEMUs with fast load, without it, too old, and no QEMU are told apart. */
    static const struct {
        const char *said;
        const char *verdicts[3];
    } cases[] = {
        { GREETING "{\"return\": {}}\n" CAPABILITIES
          "{\"return\": {}, \"id\": \"set\"}\n{\"return\": {}}",
          { "yes", "yes", "yes" } },
        { GREETING CAPABILITIES "{\"id\": \"set\", \"error\": {\"class\": "
          "\"GenericError\", \"desc\": \"unexpected\"}}",
          { "yes", "yes", "missing" } },
        { GREETING "{\"return\": [], \"id\": \"caps\"}\n{\"id\": \"set\", "
          "\"error\": {}}", { "yes", "missing", "missing" } },
        { GREETING, { "yes", "missing", "missing" } },
        { "hello", { "missing", NULL, NULL } },
        { "{\"QMP\": 7}\n[]\n{}\n\"x\"", { "missing", NULL, NULL } },
    };
    guint i, k;

    for (i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(JsonNode) report = examine_qemu(tree, cases[i].said, false,
                                                  PATIENCE_MS);

        for (k = 0; k < 3; k++) {
            JsonObject *finding = finding_at(report, k);

            g_assert_cmpstr(finding ? tree_text(finding, "verdict") : NULL,
                            ==, cases[i].verdicts[k]);
        }
    }
}

static void test_qemu_that_stays(Tree *tree, gconstpointer opaque)
{
    /* A QEMU that does not end is ended, and what it has said counts. */
    g_autoptr(JsonNode) report = examine_qemu(tree, GREETING, true, 300);
    g_autoptr(JsonNode) other = NULL;

    g_assert_cmpstr(tree_text(finding_at(report, 0), "verdict"), ==, "yes");
    other = examine_qemu(tree, "", true, 300);
    g_assert_cmpstr(tree_text(finding_at(other, 0), "verdict"), ==,
                    "missing");
}

static void add(const char *path, void (*func)(Tree *, gconstpointer))
{
    g_test_add(path, Tree, NULL, tree_set_up, func, tree_tear_down);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/bench/doctor/causes-of-userfaultfd",
                    test_causes_of_userfaultfd);
    g_test_add_func("/bench/doctor/causes-of-io-uring",
                    test_causes_of_io_uring);
    add("/bench/doctor/filters-and-profiles", test_filters_and_profiles);
    add("/bench/doctor/user-namespaces", test_user_namespaces);
    add("/bench/doctor/kinds-of-disks", test_kinds_of_disks);
    g_test_add_func("/bench/doctor/kinds-of-file-systems",
                    test_kinds_of_file_systems);
    g_test_add_func("/bench/doctor/runs-of-zeros", test_runs_of_zeros);
    g_test_add_func("/bench/doctor/findings-arrive", test_findings_arrive);
    g_test_add_func("/bench/doctor/hang-is-told", test_hang_is_told);
    g_test_add_func("/bench/doctor/crash-is-told", test_crash_is_told);
    g_test_add_func("/bench/doctor/nobody-to-become", test_nobody_to_become);
    g_test_add_func("/bench/doctor/lines-fit", test_lines_fit);
    g_test_add_func("/bench/doctor/commands-can-be-pasted",
                    test_commands_can_be_pasted);
    g_test_add_func("/bench/doctor/colours-are-no-sign",
                    test_colours_are_no_sign);
    g_test_add_func("/bench/doctor/strange-bytes", test_strange_bytes);
    add("/bench/doctor/qemus", test_qemus);
    add("/bench/doctor/qemu-that-stays", test_qemu_that_stays);
    return g_test_run();
}
