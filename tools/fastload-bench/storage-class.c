/*
 * fastload-bench: classes of storage, and when one answers.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Names and parameters of simulated storage, the syntax of lists of them, and
 * the schedule that says when a read is answered.  Pure: no clock, no threads,
 * no I/O; storage-fuse.c has those.  Returns false for text that is no class.
 */
#include "bench.h"

#define MILLION 1000000u
#define SECOND_NS 1000000000ull
#define RTT_NS_MAX (10 * SECOND_NS)
#define RATE_MIN 4096u
#define RATE_MAX (1ull << 40)
#define KEYS_RTT 1u
#define KEYS_RATE 2u
#define KEYS_JITTER 4u
#define KEYS_FAST 8u
#define KEYS_FIRST 16u
#define FIRST_MAX 1000000u

/*
 * Round-trip time of a small read and the rate of many large ones:
 * nvme: data sheets of PCIe 3 drives have 70 to 90 us and 3 to 3.5 GB/s.
 * ssd: SATA 3 carries 550 MB/s at most; drives answer within 100 to 200 us.
 * network: Ceph or NBD over 10 Gbit/s (1.25 GB/s) with replication answers
 *   in about 1 ms; clouds promise single-digit ms for network disks.
 * object: the first byte of a ranged GET comes after 10 to 30 ms from a store
 *   in the same data centre; one host gets a few Gbit/s without tuning.
 */
static const StorageClass named_classes[] = {
    { "nvme", 80000, 20000, 3000000000ull, 0, 0 },
    { "ssd", 150000, 50000, 500000000ull, 0, 0 },
    { "network", 1000000, 200000, 1000000000ull, 0, 0 },
    { "object", 20000000, 10000000, 200000000ull, 0, 0 },
};

/* Classes that command lines have named; a knob's value is the index + 1. */
static StorageClass known_classes[STORAGE_CLASS_COUNT_MAX];
static uint32_t known_count;

/* The index of @class in known_classes, + 1; 0: there are too many. */
static uint64_t storage_class_value(const StorageClass *class)
{
    uint32_t i;

    for (i = 0; i < known_count; i++) {
        const StorageClass *known = &known_classes[i];

        if (!g_strcmp0(known->name, class->name) &&
            known->rtt_ns == class->rtt_ns &&
            known->jitter_ns == class->jitter_ns &&
            known->rate_bytes_per_s == class->rate_bytes_per_s &&
            known->lucky_millionths == class->lucky_millionths &&
            known->lucky_first_count == class->lucky_first_count) {
            return i + 1;
        }
    }
    if (known_count == STORAGE_CLASS_COUNT_MAX) {
        return 0;
    }
    known_classes[known_count] = *class;
    return ++known_count;
}

const StorageClass *storage_class_get(uint64_t value)
{
    return value ? &known_classes[value - 1] : NULL;
}

/* Parses one KEY=VALUE into @class; its KEYS_ bit, or 0: it is none. */
static uint32_t storage_class_parse_key(const char *text, StorageClass *class)
{
    uint64_t value;

    if (g_str_has_prefix(text, "rtt=") &&
        text_parse_ns(text + strlen("rtt="), &value) && value <= RTT_NS_MAX) {
        class->rtt_ns = value;
        return KEYS_RTT;
    }
    if (g_str_has_prefix(text, "jitter=") &&
        text_parse_ns(text + strlen("jitter="), &value) &&
        value <= RTT_NS_MAX) {
        class->jitter_ns = value;
        return KEYS_JITTER;
    }
    if (g_str_has_prefix(text, "rate=") &&
        text_parse_size(text + strlen("rate="), &value) &&
        value >= RATE_MIN && value <= RATE_MAX) {
        class->rate_bytes_per_s = value;
        return KEYS_RATE;
    }
    if (g_str_has_prefix(text, "fast=") &&
        text_parse_share(text + strlen("fast="), &value) && value <= MILLION) {
        class->lucky_millionths = value;
        return KEYS_FAST;
    }
    if (g_str_has_prefix(text, "first=") &&
        g_ascii_string_to_unsigned(text + strlen("first="), 10, 0, FIRST_MAX,
                                   &value, NULL)) {
        class->lucky_first_count = value;
        return KEYS_FIRST;
    }
    return 0;
}

bool storage_class_parse(const char *text, uint64_t *ret_value)
{
    g_auto(GStrv) items = NULL;
    StorageClass class = { 0 };
    uint32_t i, keys = 0;
    uint64_t value;

    if (!strcmp(text, "file")) {
        *ret_value = 0;
        return true;
    }
    for (i = 0; i < G_N_ELEMENTS(named_classes); i++) {
        if (!strcmp(text, named_classes[i].name)) {
            class = named_classes[i];
        }
    }
    items = g_strsplit_set(text, ",+:", -1);
    for (i = 0; !class.name && items[i]; i++) {
        uint32_t key = storage_class_parse_key(items[i], &class);

        if (!key || keys & key) {
            return false;
        }
        keys |= key;
    }
    /* Storage needs a round trip or a rate. */
    value = class.name || keys & (KEYS_RTT | KEYS_RATE)
        ? storage_class_value(&class) : 0;
    if (value) {
        *ret_value = value;
    }
    return value;
}

static void storage_class_add_time(GString *text, const char *key,
                                   uint64_t ns)
{
    static const char *const units[] = { "ns", "us", "ms", "s" };
    uint32_t unit = 0;

    while (ns && ns % 1000 == 0 && unit < 3) {
        ns /= 1000;
        unit++;
    }
    g_string_append_printf(text, "%s%s=%" PRIu64 "%s", text->len ? "," : "",
                           key, ns, units[unit]);
}

char *storage_class_text(uint64_t value)
{
    static const char *const units[] = { "", "K", "M", "G", "T" };
    const StorageClass *class = storage_class_get(value);
    uint64_t rate = class ? class->rate_bytes_per_s : 0;
    char share[G_ASCII_DTOSTR_BUF_SIZE];
    GString *text;
    uint32_t unit = 0;

    if (!class || class->name) {
        return g_strdup(class ? class->name : "file");
    }
    text = g_string_new(NULL);
    storage_class_add_time(text, "rtt", class->rtt_ns);
    while (rate && rate % 1024 == 0 && unit < 4) {
        rate /= 1024;
        unit++;
    }
    if (rate) {
        g_string_append_printf(text, ",rate=%" PRIu64 "%s", rate,
                               units[unit]);
    }
    if (class->jitter_ns) {
        storage_class_add_time(text, "jitter", class->jitter_ns);
    }
    if (class->lucky_millionths) {
        g_string_append_printf(text, ",fast=%s%%",
                               g_ascii_formatd(share, sizeof(share), "%.10g",
                                               class->lucky_millionths / 1e4));
    }
    if (class->lucky_first_count) {
        g_string_append_printf(text, ",first=%" PRIu32,
                               class->lucky_first_count);
    }
    return g_string_free(text, FALSE);
}

/* Does @text begin a new entry: repeat a key of @entry, or is one a name? */
static bool storage_class_begins(const char *entry, const char *text)
{
    g_auto(GStrv) items = g_strsplit_set(text, "+:", -1);
    uint32_t i;

    if (!strchr(entry, '=') || !strchr(text, '=')) {
        return true;
    }
    for (i = 0; items[i]; i++) {
        const char *end = strchr(items[i], '=');
        g_autofree char *key = end ? g_strndup(items[i], end + 1 - items[i])
                                   : NULL;

        if (key && strstr(entry, key)) {
            return true;
        }
    }
    return false;
}

char **storage_class_split(const char *list)
{
    g_auto(GStrv) items = g_strsplit(list, ",", -1);
    g_autoptr(GPtrArray) entries = g_ptr_array_new();
    uint32_t i;

    for (i = 0; items[i]; i++) {
        char **last = entries->len
            ? (char **)&entries->pdata[entries->len - 1] : NULL;

        g_strstrip(items[i]);
        if (!last || storage_class_begins(*last, items[i])) {
            g_ptr_array_add(entries, g_strdup(items[i]));
        } else {
            char *longer = g_strconcat(*last, "+", items[i], NULL);

            g_free(*last);
            *last = longer;
        }
    }
    g_ptr_array_add(entries, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&entries), FALSE);
}

/* ---- when a read is answered ---- */

void storage_schedule_init(StorageSchedule *schedule,
                           const StorageClass *class, uint64_t seed)
{
    *schedule = (StorageSchedule) { .class = *class, .random = seed };
}

void storage_schedule_restart(StorageSchedule *schedule)
{
    schedule->end_ns = schedule->rest = schedule->read_count = 0;
}

/* A random number from 0 to 2^31 - 1. */
static uint32_t storage_schedule_draw(StorageSchedule *schedule)
{
    schedule->random = schedule->random * 6364136223846793005ull +
                       1442695040888963407ull;
    return schedule->random >> 33;
}

static bool storage_schedule_is_lucky(StorageSchedule *schedule)
{
    const StorageClass *class = &schedule->class;

    if (schedule->read_count++ < class->lucky_first_count) {
        return true;
    }
    return class->lucky_millionths &&
           storage_schedule_draw(schedule) % MILLION < class->lucky_millionths;
}

uint64_t storage_schedule_next(StorageSchedule *schedule, uint64_t now_ns,
                               uint64_t len_bytes)
{
    const StorageClass *class = &schedule->class;
    uint64_t jitter_ns = 0;

    if (storage_schedule_is_lucky(schedule)) {
        return now_ns + MIN(STORAGE_LUCKY_NS, class->rtt_ns);
    }
    if (now_ns > schedule->end_ns) {
        schedule->end_ns = now_ns;
        schedule->rest = 0;
    }
    if (class->rate_bytes_per_s) {
        /* The remainder of the division counts for the next read. */
        uint64_t units = len_bytes * SECOND_NS + schedule->rest;

        schedule->end_ns += units / class->rate_bytes_per_s;
        schedule->rest = units % class->rate_bytes_per_s;
    }
    if (class->jitter_ns) {
        jitter_ns = storage_schedule_draw(schedule) % (class->jitter_ns + 1);
    }
    return schedule->end_ns + class->rtt_ns + jitter_ns;
}
