/*
 * fastload-bench: tables and paragraphs, as wide as the terminal.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A sheet is a table whose columns are as wide as their texts.  If it is wider
 * than the paper, it is printed as several blocks below each other, each with
 * the labels again, so that no figure is left out.  A column that is tied to
 * the one before it stays beside it, unless the two alone are wider than the
 * paper.  A sheet can also be written as Markdown.  Knows nothing of what the
 * texts mean.  Nothing here can fail.
 */
#include "bench.h"
#include <sys/ioctl.h>

#define LABEL_COLUMNS_MAX 48
#define INDENT 2
#define GAP 2
#define TIED_GAP 1
#define TERMINAL_COLUMNS 80
#define COLUMNS_MIN 20
#define COLUMNS_MAX 10000

typedef struct SheetColumn {
    char *name;
    bool is_tied;
    uint32_t columns;        /* width of its widest text */
} SheetColumn;

typedef struct SheetRow {
    char *label;
    GPtrArray *texts;        /* empty: the row is a heading */
} SheetRow;

struct Sheet {
    SheetColumn label;
    GPtrArray *columns;      /* of SheetColumn */
    GPtrArray *rows;         /* of SheetRow */
};

uint32_t paper_columns_of(int fd)
{
    const char *text = g_getenv("COLUMNS");
    struct winsize size;
    guint64 columns;

    if (ioctl(fd, TIOCGWINSZ, &size) == 0) {
        return size.ws_col ? size.ws_col : TERMINAL_COLUMNS;
    }
    return text && g_ascii_string_to_unsigned(text, 10, COLUMNS_MIN,
                                              COLUMNS_MAX, &columns, NULL)
        ? columns : 0;
}

void paper_open(Paper *paper, uint32_t columns, bool is_markdown)
{
    *paper = (Paper) { .columns = columns, .is_markdown = is_markdown };
    paper->file = open_memstream(&paper->text, &paper->text_bytes);
    assert(paper->file); /* as g_malloc() */
}

char *paper_close(Paper *paper)
{
    char *text;

    fclose(paper->file);
    text = g_strdup(paper->text);
    free(paper->text);
    return text;
}

/* ---- paragraphs ---- */

/* Escapes Markdown, for names from files. */
static char *paper_escape(const char *text)
{
    GString *escaped = g_string_new(NULL);

    for (; *text; text++) {
        if (strchr("\\`*<[|", *text)) {
            g_string_append_c(escaped, '\\');
        }
        g_string_append_c(escaped, *text);
    }
    return g_string_free(escaped, FALSE);
}

/* Breaks @text at blanks, or at the edge if there is none. */
static void paper_wrap(const Paper *paper, uint32_t indent, const char *text)
{
    uint32_t room = paper->columns > indent + 1 ? paper->columns - indent : 1;
    size_t length = strlen(text);
    const char *end = text + length;

    while (paper->columns && length > room) {
        const char *at = text + room;

        while (at > text && *at != ' ') {
            at--;
        }
        at = at > text ? at : text + room;
        fprintf(paper->file, "%*s%.*s\n", indent, "", (int)(at - text), text);
        text = at + (*at == ' ');
        length = end - text;
    }
    fprintf(paper->file, "%*s%s\n", indent, "", text);
}

void paper_say(const Paper *paper, uint32_t indent, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    if (paper->is_markdown) {
        g_autofree char *escaped = paper_escape(text);

        fprintf(paper->file, "%s\n\n", escaped);
    } else {
        paper_wrap(paper, indent, text);
    }
}

void paper_head(const Paper *paper, const char *text)
{
    if (paper->is_markdown) {
        g_autofree char *escaped = paper_escape(text);

        fprintf(paper->file, "## %s\n\n", escaped);
    } else {
        fputc('\n', paper->file);
        paper_wrap(paper, 0, text);
    }
}

void paper_gap(const Paper *paper)
{
    if (!paper->is_markdown) {
        fputc('\n', paper->file);
    }
}

/* ---- a sheet ---- */

static void sheet_column_free(void *opaque)
{
    SheetColumn *column = opaque;

    g_free(column->name);
    g_free(column);
}

static void sheet_row_free(void *opaque)
{
    SheetRow *row = opaque;

    g_free(row->label);
    g_ptr_array_unref(row->texts);
    g_free(row);
}

Sheet *sheet_new(const char *title)
{
    Sheet *sheet = g_new0(Sheet, 1);

    sheet->label.name = g_strdup(title);
    sheet->label.columns = strlen(title);
    sheet->columns = g_ptr_array_new_with_free_func(sheet_column_free);
    sheet->rows = g_ptr_array_new_with_free_func(sheet_row_free);
    return sheet;
}

void sheet_free(Sheet *sheet)
{
    g_ptr_array_unref(sheet->columns);
    g_ptr_array_unref(sheet->rows);
    g_free(sheet->label.name);
    g_free(sheet);
}

void sheet_add_column(Sheet *sheet, const char *name, bool is_tied)
{
    SheetColumn *column = g_new0(SheetColumn, 1);

    column->name = g_strdup(name);
    column->is_tied = is_tied && sheet->columns->len;
    column->columns = strlen(name);
    g_ptr_array_add(sheet->columns, column);
}

void sheet_begin_row(Sheet *sheet, const char *label)
{
    SheetRow *row = g_new0(SheetRow, 1);

    row->label = g_strdup(label);
    row->texts = g_ptr_array_new_with_free_func(g_free);
    sheet->label.columns = MAX(sheet->label.columns, strlen(label));
    g_ptr_array_add(sheet->rows, row);
}

void sheet_add_text(Sheet *sheet, char *text)
{
    SheetRow *row = sheet->rows->pdata[sheet->rows->len - 1];
    SheetColumn *column = sheet->columns->pdata[row->texts->len];

    column->columns = MAX(column->columns, strlen(text));
    g_ptr_array_add(row->texts, text);
}

/* ---- printing it ---- */

static uint32_t sheet_gap(const SheetColumn *column)
{
    return column->is_tied ? TIED_GAP : GAP;
}

/* The columns [first, *ret_end) that are tied; returns their width. */
static uint32_t sheet_group(const Sheet *sheet, uint32_t first,
                            uint32_t *ret_end)
{
    uint32_t i = first, columns = 0;

    do {
        const SheetColumn *column = sheet->columns->pdata[i];

        columns += sheet_gap(column) + column->columns;
        i++;
    } while (i < sheet->columns->len &&
             ((SheetColumn *)sheet->columns->pdata[i])->is_tied);
    *ret_end = i;
    return columns;
}

/* Do labels get lines of their own, since little would fit beside them? */
static bool sheet_is_stacked(const Sheet *sheet, uint32_t columns)
{
    uint32_t i = 0;

    if (sheet->label.columns > LABEL_COLUMNS_MAX) {
        return true;
    }
    while (columns && i < sheet->columns->len) {
        if (INDENT + sheet->label.columns + sheet_group(sheet, i, &i) >
            columns) {
            return true;
        }
    }
    return false;
}

/* The end of the block that begins with column @first, @room wide. */
static uint32_t sheet_block_end(const Sheet *sheet, uint32_t first,
                                uint32_t room)
{
    uint32_t end = first, next, used = sheet_group(sheet, first, &next);

    if (used > room) {
        /* Tied columns that do not fit: as many as fit, at least one. */
        const SheetColumn *column = sheet->columns->pdata[end++];

        used = GAP + column->columns;
        while (end < next) {
            column = sheet->columns->pdata[end];
            used += sheet_gap(column) + column->columns;
            if (used > room) {
                break;
            }
            end++;
        }
        return end;
    }
    for (end = next; end < sheet->columns->len; end = next) {
        used += sheet_group(sheet, end, &next);
        if (used > room) {
            break;
        }
    }
    return end;
}

static void sheet_print_block(const Sheet *sheet, const Paper *paper,
                              bool is_stacked, uint32_t first, uint32_t end)
{
    int width = is_stacked ? 0 : sheet->label.columns;
    uint32_t i, r;

    fputc('\n', paper->file);
    if (is_stacked) {
        paper_wrap(paper, INDENT, sheet->label.name);
    }
    fprintf(paper->file, "%*s%-*s", INDENT, "", width,
            is_stacked ? "" : sheet->label.name);
    for (i = first; i < end; i++) {
        const SheetColumn *column = sheet->columns->pdata[i];

        fprintf(paper->file, "%*s", sheet_gap(column) + column->columns,
                column->name);
    }
    fputc('\n', paper->file);
    for (r = 0; r < sheet->rows->len; r++) {
        const SheetRow *row = sheet->rows->pdata[r];

        if (is_stacked || !row->texts->len) {
            paper_wrap(paper, INDENT, row->label);
        }
        if (!row->texts->len) {
            continue;
        }
        fprintf(paper->file, "%*s%-*s", INDENT, "", width,
                is_stacked ? "" : row->label);
        for (i = first; i < end; i++) {
            const SheetColumn *column = sheet->columns->pdata[i];

            fprintf(paper->file, "%*s", sheet_gap(column) + column->columns,
                    (char *)row->texts->pdata[i]);
        }
        fputc('\n', paper->file);
    }
}

static void sheet_print_markdown_row(const Paper *paper, const char *label,
                                     const GPtrArray *texts,
                                     uint32_t column_count)
{
    g_autofree char *escaped = paper_escape(label);
    uint32_t i;

    fprintf(paper->file, "| %s |", escaped);
    for (i = 0; i < column_count; i++) {
        g_autofree char *text = paper_escape(texts->len ? texts->pdata[i]
                                                        : "");

        fprintf(paper->file, " %s |", text);
    }
    fputc('\n', paper->file);
}

static void sheet_print_markdown(const Sheet *sheet, const Paper *paper)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new();
    uint32_t i;

    for (i = 0; i < sheet->columns->len; i++) {
        const SheetColumn *column = sheet->columns->pdata[i];

        g_ptr_array_add(names, column->name);
    }
    sheet_print_markdown_row(paper, sheet->label.name, names, names->len);
    fputs("|---|", paper->file);
    for (i = 0; i < names->len; i++) {
        fputs("---:|", paper->file);
    }
    fputc('\n', paper->file);
    for (i = 0; i < sheet->rows->len; i++) {
        const SheetRow *row = sheet->rows->pdata[i];

        sheet_print_markdown_row(paper, row->label, row->texts, names->len);
    }
    fputc('\n', paper->file);
}

void sheet_print(const Sheet *sheet, const Paper *paper)
{
    bool is_stacked = sheet_is_stacked(sheet, paper->columns);
    uint32_t used = INDENT + (is_stacked ? 0 : sheet->label.columns);
    uint32_t room = paper->columns > used ? paper->columns - used : 1;
    uint32_t first, end;

    if (paper->is_markdown) {
        sheet_print_markdown(sheet, paper);
        return;
    }
    for (first = 0; first < sheet->columns->len; first = end) {
        end = paper->columns ? sheet_block_end(sheet, first, room)
                             : sheet->columns->len;
        sheet_print_block(sheet, paper, is_stacked, first, end);
    }
}
