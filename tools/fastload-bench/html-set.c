/*
 * fastload-bench: working sets in a page.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * What set_node() has written: figures, a picture of where each block's share
 * of the set lies, and in which order it was touched.  The tree may be of a
 * file that is not trusted: what does not fit is left out, names are escaped.
 * No script is needed.
 */
#include "bench.h"
#include <math.h>

/* As set.c writes them; more are not drawn. */
#define SET_COLUMNS_MAX 96
#define SET_ROWS_MAX 10
#define SET_BLOCKS_MAX 8

void html_set_facts(GString *out, JsonObject *set)
{
    g_autofree char *bytes = text_bytes(tree_number(set, "page_count") *
                                        BENCH_PAGE_BYTES);
    double took_ns = tree_number(set, "took_ns");

    g_string_append_printf(out, "<p class=\"how\">%s in %.0f pages and %.0f "
                           "runs", bytes,
                           fmax(tree_number(set, "page_count"), 0),
                           fmax(tree_number(set, "run_count"), 0));
    if (took_ns > 0) {
        g_autofree char *took = text_ns(took_ns);

        g_string_append_printf(out, ", recorded in %s", took);
    }
    g_string_append_printf(out, "%s.</p>\n", tree_is_true(set, "cut")
                           ? "; more was touched than there is room for"
                           : "");
}

/* The shares of one block's cells, row by row; NULL: it has none. */
static double *html_set_shares(JsonObject *block, guint column_count,
                               guint row_count)
{
    double page_count = tree_number(block, "len_bytes") / BENCH_PAGE_BYTES;
    JsonArray *rows = tree_array(block, "tenths");
    double *shares = g_new0(double, column_count * row_count);
    guint row, c;

    for (row = 0; row < row_count; row++) {
        JsonNode *node = json_array_get_element(rows, row);
        JsonArray *cells = JSON_NODE_HOLDS_ARRAY(node)
            ? json_node_get_array(node) : NULL;

        for (c = 0; c < MIN(column_count, tree_length(cells)); c++) {
            /* The column's pages, as set.c cuts the block. */
            double pages = floor(page_count * (c + 1) / column_count) -
                           floor(page_count * c / column_count);
            double share = tree_number_at(cells, c) / pages;

            shares[row * column_count + c] = share > 0 ? MIN(share, 1) : 0;
        }
    }
    return shares;
}

static void html_set_block(GString *out, JsonObject *block)
{
    double columns = tree_number(block, "columns");
    g_autofree char *bytes = text_bytes(tree_number(block, "page_count") *
                                        BENCH_PAGE_BYTES);
    g_autofree char *len = text_bytes(tree_number(block, "len_bytes"));
    g_autofree double *shares = NULL;
    ChartStrips chart = {
        .name = tree_text(block, "label"),
        .len_bytes = tree_number(block, "len_bytes"),
        .row_count = MIN(tree_length(tree_array(block, "tenths")),
                         SET_ROWS_MAX),
        .first = "first", .last = "last",
    };

    if (!(columns >= 1 && columns <= SET_COLUMNS_MAX) || !chart.row_count ||
        !(chart.len_bytes > 0)) {
        return;
    }
    chart.column_count = columns;
    shares = html_set_shares(block, chart.column_count, chart.row_count);
    chart.shares = shares;
    g_string_append(out, "<div class=\"strips-name\"><strong>");
    text_append_html(out, *chart.name ? chart.name : "(no name)");
    g_string_append_printf(out, "</strong> <span class=\"soft\">%s of %s"
                           "</span></div>\n", bytes, len);
    chart_strips(&chart, out);
}

void html_set_picture(GString *out, JsonObject *set)
{
    JsonArray *blocks = tree_array(set, "blocks");
    guint i, shown = 0;

    for (i = 0; i < tree_length(blocks) && shown < SET_BLOCKS_MAX; i++) {
        JsonObject *block = tree_element(blocks, i);

        if (tree_length(tree_array(block, "tenths"))) {
            html_set_block(out, block);
            shown++;
        }
    }
}

void html_set_legend(GString *out)
{
    guint i;

    g_string_append(out, "<div class=\"legend\"><span>of the pages there:"
                    "</span>");
    for (i = 0; i < CHART_SHARE_COUNT; i++) {
        g_string_append_printf(out, "<span><i class=\"swatch filled tall-%u "
                               "%s\"></i>%s %.0f %%</span>", i + 1,
                               chart_share_classes[i],
                               i + 1 < CHART_SHARE_COUNT ? "up to"
                               : "more, up to", chart_share_tops[i] * 100);
    }
    g_string_append(out, "</div>\n");
}

void html_set_table(GString *out, JsonObject *set)
{
    JsonArray *blocks = tree_array(set, "blocks");
    guint i;

    g_string_append(out, "<div class=\"table-frame first\"><table>"
                    "<caption>Blocks of memory in the set</caption>\n<thead>"
                    "<tr><th scope=\"col\">Block</th><th scope=\"col\">Length"
                    "</th><th scope=\"col\">In the set</th><th scope=\"col\">"
                    "Share</th><th scope=\"col\">Runs</th></tr></thead>\n"
                    "<tbody>\n");
    for (i = 0; i < tree_length(blocks); i++) {
        JsonObject *block = tree_element(blocks, i);
        double len_bytes = tree_number(block, "len_bytes");
        double bytes = tree_number(block, "page_count") * BENCH_PAGE_BYTES;
        g_autofree char *len = text_bytes(len_bytes);
        g_autofree char *in = text_bytes(bytes);

        g_string_append(out, "<tr><th scope=\"row\">");
        text_append_html(out, tree_text(block, "label"));
        g_string_append_printf(out, "</th><td>%s</td><td>%s</td><td>%.1f %%"
                               "</td><td>%.0f</td></tr>\n", len, in,
                               100 * bytes / len_bytes,
                               tree_number(block, "run_count"));
    }
    g_string_append(out, "</tbody></table></div>\n");
}

void html_replayed_sets(GString *out, const GPtrArray *contenders)
{
    bool has_any = false;
    guint i;

    for (i = 0; i < contenders->len; i++) {
        JsonObject *one = contenders->pdata[i];
        JsonObject *set = tree_object(one, "working_set");

        if (!set) {
            continue;
        }
        if (!has_any) {
            g_string_append(
                out, "<h4>The working sets that were replayed</h4>\n"
                "<p class=\"how\">What a run before the first one has "
                "recorded. Each block of guest memory from its begin on the "
                "left to its end: the whole set above, and below it a row for "
                "each tenth of its runs, in the order of the set: that of the "
                "first touches, and with reap that of memory.</p>\n");
            html_set_legend(out);
            g_string_append(out, "<div class=\"sets\">\n");
            has_any = true;
        }
        g_string_append(out, "<figure class=\"panel set\"><div "
                        "class=\"name\">");
        text_append_html(out, tree_text(one, "label"));
        g_string_append(out, "</div>\n");
        html_set_facts(out, set);
        html_set_picture(out, set);
        g_string_append(out, "</figure>\n");
    }
    g_string_append(out, has_any ? "</div>\n" : "");
}
