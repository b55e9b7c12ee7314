/*
 * fastload-bench: from QEMU's log to a trace.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Reads the log of a fast load of QEMU with -trace 'fastload_fault_*': the
 * places of RAM blocks, and each fault of the guest.  Writes the first touch of
 * each page in the format of trace.c; a page that was read and written while it
 * was missing has two lines.  A touch of a page that was already loaded causes
 * no fault and is not in the log.  Skips other lines of the log.  Fails if the
 * log has no blocks or no faults, or a fault outside of the blocks.
 */
#include "bench.h"

#define RECORD_BLOCK "fastload_fault_block "
#define RECORD_FAULT "fastload_fault_received "
#define RECORD_READ 1u
#define RECORD_WRITTEN 2u
#define SECOND_US 1000000u

typedef struct RecordBlock {
    char name[256];
    uint64_t hva, len_bytes;
} RecordBlock;

typedef struct RecordTouch {
    uint64_t at_us;          /* 0: the log has no times */
    uint64_t ram_off;
    uint32_t block_idx;
    bool is_write;
} RecordTouch;

typedef struct Record {
    GArray *blocks;          /* of RecordBlock */
    GArray *touches;         /* of RecordTouch */
    GHashTable *seen;        /* page of the process -> RECORD_* */
    bool has_times;          /* each touch has one */
} Record;

static void record_begin(Record *r)
{
    g_array_set_size(r->blocks, 0);
    g_array_set_size(r->touches, 0);
    g_hash_table_remove_all(r->seen);
    r->has_times = true;
}

/*
 * With -msg timestamp=on a line begins with "2026-11-29T14:27:33.123456Z " or,
 * before QEMU 10.2, with "PID@SECONDS.MICROSECONDS:".
 */
static bool record_time(const char *line, const char *event,
                        uint64_t *ret_us)
{
    g_autofree char *head = g_strndup(line, event - line);
    g_autoptr(GDateTime) date = NULL;
    uint64_t seconds, us;

    if (sscanf(head, "%*u@%" SCNu64 ".%6" SCNu64 ":", &seconds, &us) == 2) {
        *ret_us = seconds * SECOND_US + us;
        return true;
    }
    date = g_date_time_new_from_iso8601(g_strstrip(head), NULL);
    if (date) {
        *ret_us = g_date_time_to_unix(date) * SECOND_US +
                  g_date_time_get_microsecond(date);
    }
    return date;
}

/* Notes a block.  NULL, or what is wrong with the line. */
static const char *record_note_block(Record *r, const char *text)
{
    RecordBlock block;
    char rest[2];

    if (r->touches->len) {
        /* Another load in the same log: the last one counts. */
        record_begin(r);
    }
    if (sscanf(text, "hva=0x%" SCNx64 " len=%" SCNu64 " %255s%1s", &block.hva,
               &block.len_bytes, block.name, rest) != 3 ||
        block.len_bytes > UINT64_MAX - block.hva) {
        return "names no block as fast load logs it, or one with a blank in "
               "its name";
    }
    g_array_append_val(r->blocks, block);
    return NULL;
}

static const char *record_note_fault(Record *r, const char *line,
                                     const char *event)
{
    const char *hva_text = strstr(event, " hva=0x");
    const char *kind = strstr(event, " write=");
    RecordTouch touch = { .is_write = kind && kind[7] == '1' };
    uint64_t hva;
    guint seen;

    if (!hva_text || sscanf(hva_text, " hva=0x%" SCNx64, &hva) != 1) {
        return "has no address";
    }
    hva &= ~(uint64_t)(BENCH_PAGE_BYTES - 1);
    for (; touch.block_idx < r->blocks->len; touch.block_idx++) {
        const RecordBlock *block = &g_array_index(r->blocks, RecordBlock,
                                                  touch.block_idx);

        if (hva >= block->hva && hva - block->hva < block->len_bytes) {
            touch.ram_off = hva - block->hva;
            break;
        }
    }
    if (touch.block_idx == r->blocks->len) {
        return "has a fault outside of the blocks that the log names: log "
               "fastload_fault_* from the start of the load on";
    }
    /* The kernel reports a page twice when two threads fault on it. */
    seen = GPOINTER_TO_UINT(g_hash_table_lookup(r->seen, (void *)hva));
    if (seen & RECORD_WRITTEN || (seen && !touch.is_write)) {
        return NULL;
    }
    g_hash_table_insert(r->seen, (void *)hva,
                        GUINT_TO_POINTER(seen | (touch.is_write
                                                 ? RECORD_WRITTEN
                                                 : RECORD_READ)));
    r->has_times &= record_time(line, event, &touch.at_us);
    g_array_append_val(r->touches, touch);
    return r->touches->len > TRACE_TOUCH_COUNT_MAX
        ? "is one fault more than can be replayed" : NULL;
}

static int record_by_time(const void *a, const void *b)
{
    uint64_t x = ((const RecordTouch *)a)->at_us;
    uint64_t y = ((const RecordTouch *)b)->at_us;

    return x < y ? -1 : x > y;
}

static char *record_text(Record *r, const char *name)
{
    g_autofree char *safe_name = g_strescape(name, NULL);
    GString *text = g_string_new(NULL);
    uint64_t begin_us;
    guint i;

    g_string_append_printf(text, "# the first touches of a guest, from the "
                           "log %s\n# BLOCK OFFSET r|w%s\n", safe_name,
                           r->has_times ? " @SECONDS" : "");
    if (r->has_times) {
        /* Engine threads log independently; the sort is stable. */
        g_array_sort(r->touches, record_by_time);
    }
    begin_us = g_array_index(r->touches, RecordTouch, 0).at_us;
    for (i = 0; i < r->touches->len; i++) {
        const RecordTouch *touch = &g_array_index(r->touches, RecordTouch, i);
        const RecordBlock *block = &g_array_index(r->blocks, RecordBlock,
                                                  touch->block_idx);
        uint64_t us = touch->at_us - begin_us;

        g_string_append_printf(text, "%s 0x%" PRIx64 " %c", block->name,
                               touch->ram_off, touch->is_write ? 'w' : 'r');
        if (r->has_times) {
            g_string_append_printf(text, " @%" PRIu64 ".%06" PRIu64,
                                   us / SECOND_US, us % SECOND_US);
        }
        g_string_append_c(text, '\n');
    }
    return g_string_free(text, FALSE);
}

/* NULL, or what is wrong with line *ret_number. */
static const char *record_read(Record *r, FILE *log, uint64_t *ret_number)
{
    g_autofree char *line = NULL;
    const char *fault = NULL;
    size_t capacity = 0;

    *ret_number = 0;
    while (!fault && getline(&line, &capacity, log) >= 0) {
        const char *event;

        (*ret_number)++;
        event = strstr(line, RECORD_FAULT);
        if (event) {
            fault = record_note_fault(r, line, event);
            continue;
        }
        event = strstr(line, RECORD_BLOCK);
        if (event) {
            fault = record_note_block(r, event + strlen(RECORD_BLOCK));
        }
    }
    return fault;
}

char *record_trace(FILE *log, const char *name, GError **error)
{
    Record r = {
        .blocks = g_array_new(FALSE, FALSE, sizeof(RecordBlock)),
        .touches = g_array_new(FALSE, FALSE, sizeof(RecordTouch)),
        .seen = g_hash_table_new(NULL, NULL),
        .has_times = true,
    };
    char *text = NULL;
    uint64_t number;
    const char *fault = record_read(&r, log, &number);

    if (fault) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "line %" PRIu64 " of the log %s %s", number, name, fault);
    } else if (ferror(log)) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "cannot read the log %s: %s", name, g_strerror(errno));
    } else if (!r.touches->len) {
        g_set_error(error, BENCH_ERROR, BENCH_ERROR_FAILED,
                    "the log %s has no fault of a fast load: run QEMU with "
                    "-trace 'fastload_fault_*' -msg timestamp=on -D FILE",
                    name);
    } else {
        text = record_text(&r, name);
    }
    g_array_unref(r.blocks);
    g_array_unref(r.touches);
    g_hash_table_unref(r.seen);
    return text;
}
