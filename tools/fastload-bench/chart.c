/*
 * fastload-bench: charts that need no script.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Writes bars, lines and strips of memory as SVG into a page.  Horizontal
 * positions are in percent and vertical ones in pixels: so a chart fills the
 * width of its place without being scaled, and its text has the size of the
 * page's text.  Colours and margins are in report.html.  Knows nothing of
 * results.
 */
#include "bench.h"
#include <math.h>

#define TICK_COUNT_MAX 5
#define BAR_PX 11
#define BAR_STEP_PX 14
#define LINES_PX 190
#define LABEL_PX 13          /* from one line of a label to the next */
#define LABEL_CHARS 17
#define LABEL_LINES_MAX 3
#define STRIP_PX 26
#define STRIP_ROW_PX 13
#define STRIP_GAP_PX 5
/* A bar that is so many times longer than all others is cut. */
#define CUT_RATIO 3.0

/* ---- scales ---- */

typedef struct Scale {
    double max;
    double step;             /* between two ticks */
    guint tick_count;        /* the one at 0 included */
    double unit;             /* value of 1 in a tick's text */
    const char *unit_name;
} Scale;

/* The largest unit in which @max is 1 or more. */
static void chart_set_unit(Scale *scale, ChartUnit unit)
{
    static const struct {
        double size;
        const char *name;
    } units[][5] = {
        [CHART_NS] = { { 1, "ns" }, { 1e3, "us" }, { 1e6, "ms" },
                       { 1e9, "s" } },
        [CHART_BYTES] = { { 1, "bytes" }, { 0x1p10, "KiB" },
                          { 0x1p20, "MiB" }, { 0x1p30, "GiB" },
                          { 0x1p40, "TiB" } },
        [CHART_SHARE] = { { 0.01, "%" } },
    };
    guint i;

    scale->unit = units[unit][0].size;
    scale->unit_name = units[unit][0].name;
    for (i = 1; i < 5 && units[unit][i].name &&
         scale->max >= units[unit][i].size; i++) {
        scale->unit = units[unit][i].size;
        scale->unit_name = units[unit][i].name;
    }
}

static Scale chart_scale(double max, ChartUnit unit)
{
    static const double factors[] = { 1, 2, 5, 10 };
    Scale scale = { .max = max > 0 ? max : 1 };
    double power;
    guint i;

    chart_set_unit(&scale, unit);
    power = pow(10, floor(log10(scale.max / scale.unit / TICK_COUNT_MAX)));
    for (i = 0; i < G_N_ELEMENTS(factors); i++) {
        scale.step = power * factors[i] * scale.unit;
        if (scale.step * TICK_COUNT_MAX >= scale.max) {
            break;
        }
    }
    /* Values that cannot be divided have one tick. */
    scale.tick_count = 1 + (scale.step > 0 && isfinite(scale.max)
                            ? MIN(scale.max / scale.step, TICK_COUNT_MAX) : 0);
    return scale;
}

static double chart_percent(const Scale *scale, double value)
{
    return CLAMP(value / scale->max, 0, 1) * 100;
}

/* "0", "50", "100": the unit is in the axis' title. */
static void chart_tick_text(GString *out, const Scale *scale, double value)
{
    g_string_append_printf(out, "%.6g", value / scale->unit);
}

static char *chart_value_text(ChartUnit unit, double value)
{
    switch (unit) {
    case CHART_NS:
        return text_ns(value);
    case CHART_BYTES:
        return text_bytes(value);
    case CHART_SHARE:
        return g_strdup_printf("%.0f %%", value * 100);
    }
    return NULL;
}

/* The tooltip: "Title: 300 ms, 290 ms to 340 ms". */
static void chart_title(GString *out, const char *title, ChartUnit unit,
                        const Spread *spread)
{
    g_autofree char *median = chart_value_text(unit, spread->median);
    g_autofree char *least = chart_value_text(unit, spread->least);
    g_autofree char *most = chart_value_text(unit, spread->most);

    g_string_append(out, "<title>");
    text_append_html(out, title);
    g_string_append_printf(out, ": %s, %s to %s</title>", median, least,
                           most);
}

/* ---- bars ---- */

/* One very slow contender must not flatten all others. */
static double chart_bars_max(const ChartBars *chart)
{
    double first = 0, second = 0;
    guint row, s;

    for (row = 0; row < chart->row_count; row++) {
        double top = 0;

        for (s = 0; s < chart->series_count; s++) {
            const Spread *spread =
                &chart->spreads[row * chart->series_count + s];

            if (!isnan(spread->median)) {
                top = MAX(top, MAX(spread->median, spread->most));
            }
        }
        if (top > first) {
            second = first;
            first = top;
        } else if (top > second) {
            second = top;
        }
    }
    return second > 0 && first > CUT_RATIO * second ? second * 1.15 : first;
}

/* A dot for each run; an outlier is a diamond. */
static void chart_runs(GString *out, const Scale *scale, ChartUnit unit,
                       const Spread *spread, int y)
{
    double low, high;
    guint i;

    figures_fences((double *)spread->rounds->data, spread->rounds->len, &low,
                   &high);
    for (i = 0; i < spread->rounds->len; i++) {
        double value = g_array_index(spread->rounds, double, i);
        g_autofree char *text = chart_value_text(unit, value);

        if (isnan(value)) {
            continue;
        }
        if (value < low || value > high || value > scale->max) {
            g_string_append_printf(
                out, "<svg x=\"%.2f%%\" y=\"%d\"><path class=\"far\" d=\""
                "M0-5l5 5l-5 5l-5-5z\"><title>round %u: %s</title></path>"
                "</svg>", chart_percent(scale, value), y, i + 1, text);
        } else {
            g_string_append_printf(
                out, "<circle class=\"dot\" cx=\"%.2f%%\" cy=\"%d\" r=\"3\">"
                "<title>round %u: %s</title></circle>",
                chart_percent(scale, value), y, i + 1, text);
        }
    }
}

static void chart_bar(GString *out, const ChartBars *chart,
                      const Scale *scale, guint series, const Spread *spread,
                      int y)
{
    int middle = y + BAR_PX / 2;
    g_autofree char *text = NULL;

    if (isnan(spread->median)) {
        g_string_append_printf(out, "<text class=\"soft\" x=\"0\" dx=\"6\" "
                               "y=\"%d\">-</text>", y + BAR_PX - 1);
        return;
    }
    text = chart_value_text(chart->unit, spread->median);
    g_string_append_printf(out, "<rect class=\"fill %s\" x=\"0\" y=\"%d\" "
                           "height=\"%d\" width=\"%.2f%%\">",
                           chart->series[series].class, y, BAR_PX,
                           MAX(chart_percent(scale, spread->median), 0.2));
    chart_title(out, chart->series[series].title, chart->unit, spread);
    g_string_append(out, "</rect>");
    if (spread->median > scale->max) {
        g_string_append_printf(out, "<svg x=\"93%%\" y=\"%d\"><path "
                               "class=\"hole\" d=\"M-6 %d l6 -17m5 0l-6 17\"/>"
                               "</svg>", y, BAR_PX + 3);
    }
    g_string_append_printf(out, "<line class=\"range\" x1=\"%.2f%%\" "
                           "x2=\"%.2f%%\" y1=\"%d\" y2=\"%d\"/>",
                           chart_percent(scale, spread->least),
                           chart_percent(scale, spread->most), middle,
                           middle);
    chart_runs(out, scale, chart->unit, spread, middle);
    g_string_append_printf(out, "<text x=\"%.2f%%\" dx=\"9\" y=\"%d\">%s",
                           chart_percent(scale, MAX(spread->median,
                                                    spread->most)),
                           y + BAR_PX - 1, text);
    if (isfinite(spread->ratio) && spread->ratio > 0 && spread->ratio != 1) {
        g_autofree char *ratio = text_ratio(spread->ratio);

        g_string_append_printf(out, "<tspan class=\"soft\" dx=\"5\">"
                               "\303\227%s</tspan>", ratio);
    }
    g_string_append(out, "</text>");
}

static void chart_grid(GString *out, const Scale *scale, int height)
{
    guint i;

    for (i = 0; i < scale->tick_count; i++) {
        double x = chart_percent(scale, i * scale->step);

        g_string_append_printf(out, "<line class=\"%s\" x1=\"%.2f%%\" "
                               "x2=\"%.2f%%\" y1=\"0\" y2=\"%d\"/>",
                               i ? "grid-line" : "axis-line", x, x, height);
    }
}

/* Below all rows: the texts of the ticks and the title of the axis. */
static void chart_bars_axis(GString *out, const ChartBars *chart,
                            const Scale *scale)
{
    guint i;

    g_string_append(out, "<div class=\"bar-row axis\"><div></div>"
                    "<svg class=\"plot\" height=\"36\" aria-hidden=\"true\">"
                    "<line class=\"axis-line\" x1=\"0\" x2=\"100%\" y1=\"0\" "
                    "y2=\"0\"/>");
    for (i = 0; i < scale->tick_count; i++) {
        g_string_append_printf(out, "<text class=\"tick\" x=\"%.2f%%\" "
                               "y=\"14\">",
                               chart_percent(scale, i * scale->step));
        chart_tick_text(out, scale, i * scale->step);
        g_string_append(out, "</text>");
    }
    g_string_append(out, "<text class=\"axis-title\" x=\"50%\" y=\"31\">");
    text_append_html(out, chart->axis);
    g_string_append_printf(out, ", %s</text></svg></div>\n",
                           scale->unit_name);
}

void chart_bars(const ChartBars *chart, GString *out)
{
    Scale scale = chart_scale(chart_bars_max(chart), chart->unit);
    /* High enough for the name beside it. */
    int height = MAX(chart->series_count * BAR_STEP_PX + 6, 26);
    guint row, s;

    g_string_append(out, "<div class=\"bars\">\n");
    for (row = 0; row < chart->row_count; row++) {
        const ChartRow *r = &chart->rows[row];
        int y = (height - (int)chart->series_count * BAR_STEP_PX) / 2 + 1;

        g_string_append(out, "<div class=\"bar-row\"><div class=\"bar-name\">"
                        "<strong>");
        text_append_html(out, r->name);
        g_string_append(out, "</strong> <span class=\"soft\">");
        text_append_html(out, r->note);
        g_string_append_printf(out, "</span></div>"
                               "<svg class=\"plot\" height=\"%d\" "
                               "role=\"img\" aria-label=\"", height);
        text_append_html(out, chart->axis);
        g_string_append(out, ": ");
        text_append_html(out, r->name);
        g_string_append(out, "\">");
        chart_grid(out, &scale, height);
        for (s = 0; s < chart->series_count; s++) {
            chart_bar(out, chart, &scale, s,
                      &chart->spreads[row * chart->series_count + s],
                      y + s * BAR_STEP_PX);
        }
        g_string_append(out, "</svg></div>\n");
    }
    chart_bars_axis(out, chart, &scale);
    g_string_append(out, "</div>\n");
}

/* ---- lines ---- */

typedef struct Label {
    const ChartLine *line;
    GPtrArray *words;        /* of char *, a line of text each */
    double end_y;            /* of the line it belongs to */
    double y;
} Label;

static void chart_label_free(void *data)
{
    Label *label = data;

    g_ptr_array_unref(label->words);
    g_free(label);
}

/* Breaks @text into lines that fit into the margin. */
static GPtrArray *chart_wrap(const char *text)
{
    GPtrArray *lines = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    g_autoptr(GString) line = g_string_new(NULL);
    guint i;

    for (i = 0; words[i]; i++) {
        if (line->len && g_utf8_strlen(line->str, -1) +
            g_utf8_strlen(words[i], -1) >= LABEL_CHARS) {
            g_ptr_array_add(lines, g_strdup(line->str));
            g_string_truncate(line, 0);
        }
        g_string_append_printf(line, "%s%s", line->len ? " " : "", words[i]);
    }
    g_ptr_array_add(lines, g_strdup(line->str));
    if (lines->len > LABEL_LINES_MAX) {
        g_ptr_array_set_size(lines, LABEL_LINES_MAX);
    }
    for (i = 0; i < lines->len; i++) {
        char *whole = lines->pdata[i];

        if (g_utf8_strlen(whole, -1) > LABEL_CHARS + 3) {
            g_autofree char *part = g_utf8_substring(whole, 0, LABEL_CHARS);

            lines->pdata[i] = g_strconcat(part, "\342\200\246", NULL);
            g_free(whole);
        }
    }
    return lines;
}

static int chart_by_y(const void *a, const void *b)
{
    const Label *x = *(Label *const *)a, *y = *(Label *const *)b;

    return x->y < y->y ? -1 : x->y > y->y;
}

/* Moves labels apart, downwards; returns where the last one ends. */
static double chart_spread_labels(GPtrArray *labels)
{
    double bottom = 0;
    guint i;

    g_ptr_array_sort(labels, chart_by_y);
    for (i = 0; i < labels->len; i++) {
        Label *label = labels->pdata[i];

        label->y = MAX(label->y, bottom);
        bottom = label->y + label->words->len * LABEL_PX + 2;
    }
    return bottom;
}

/*
 * The same, and then back up where they left the chart: it gets higher only
 * when they have no room at all.
 */
static int chart_place_labels(GPtrArray *labels)
{
    double bottom = chart_spread_labels(labels), limit;
    guint i;

    limit = LINES_PX;
    for (i = labels->len; i-- > 0;) {
        Label *label = labels->pdata[i];
        double height = label->words->len * LABEL_PX + 2;

        label->y = MAX(0, MIN(label->y, limit - height));
        limit = label->y;
    }
    bottom = chart_spread_labels(labels);
    return MAX(LINES_PX, (int)ceil(bottom));
}

static void chart_draw_label(GString *out, const Label *label)
{
    guint i;

    g_string_append_printf(
        out, "<svg x=\"100%%\"><path class=\"leader %s\" "
        "d=\"M2 %.1fL12 %.1f\"/><path class=\"line %s\" d=\"M14 %.1fh20\"/>"
        "</svg><text><title>",
        label->line->class, label->end_y, label->y + 6, label->line->class,
        label->y + 6);
    text_append_html(out, label->line->name);
    g_string_append(out, "</title>");
    for (i = 0; i < label->words->len; i++) {
        g_string_append_printf(out, "<tspan x=\"100%%\" dx=\"38\" y=\"%.1f\">",
                               label->y + 10 + i * LABEL_PX);
        text_append_html(out, label->words->pdata[i]);
        g_string_append(out, "</tspan>");
    }
    g_string_append(out, "</text>");
}

/* The position in percent of the width, with margins on either side. */
static double chart_line_x(const ChartLines *chart, guint i)
{
    double first = chart->places[0].x;
    double last = chart->places[chart->place_count - 1].x;
    double x = chart->places[i].x;

    if (last <= first) {
        return 50;
    }
    if (first > 0 && last / first > 3) {
        return 4 + 92 * log(x / first) / log(last / first);
    }
    return 4 + 92 * (x - first) / (last - first);
}

static double chart_line_y(const Scale *scale, double value)
{
    return LINES_PX * (1 - CLAMP(value / scale->max, 0, 1));
}

static void chart_line_points(GString *out, const ChartLines *chart,
                              const Scale *scale, const ChartLine *line)
{
    guint i, k, before = G_MAXUINT;

    for (i = 0; i < chart->place_count; i++) {
        const Spread *spread = &line->spreads[i];
        double x = chart_line_x(chart, i);
        double y = chart_line_y(scale, spread->median);

        if (isnan(spread->median)) {
            continue;
        }
        if (before != G_MAXUINT) {
            g_string_append_printf(
                out, "<line class=\"line %s\" x1=\"%.2f%%\" y1=\"%.1f\" "
                "x2=\"%.2f%%\" y2=\"%.1f\"/>", line->class,
                chart_line_x(chart, before),
                chart_line_y(scale, line->spreads[before].median), x, y);
        }
        before = i;
        for (k = 0; k < spread->rounds->len && !line->is_level; k++) {
            double value = g_array_index(spread->rounds, double, k);

            if (!isnan(value)) {
                g_string_append_printf(
                    out, "<circle class=\"run-dot %s\" cx=\"%.2f%%\" "
                    "cy=\"%.1f\" r=\"2\"/>", line->class, x,
                    chart_line_y(scale, value));
            }
        }
        g_string_append_printf(out, "<circle class=\"fill hole %s\" "
                               "cx=\"%.2f%%\" cy=\"%.1f\" r=\"4\">",
                               line->class, x, y);
        chart_title(out, line->name, chart->unit, spread);
        g_string_append(out, "</circle>");
    }
}

static void chart_lines_axes(GString *out, const ChartLines *chart,
                             const Scale *scale)
{
    double last = -100;
    guint i;

    for (i = 0; i < scale->tick_count; i++) {
        double y = chart_line_y(scale, i * scale->step);

        g_string_append_printf(out, "<line class=\"%s\" x1=\"0\" "
                               "x2=\"100%%\" y1=\"%.1f\" y2=\"%.1f\"/>"
                               "<text class=\"tick-y\" x=\"0\" dx=\"-7\" "
                               "y=\"%.1f\">", i ? "grid-line" : "axis-line",
                               y, y, y + 4);
        chart_tick_text(out, scale, i * scale->step);
        g_string_append(out, "</text>");
    }
    for (i = 0; i < chart->place_count; i++) {
        double x = chart_line_x(chart, i);

        /* A text that would overlap the one before it is left out. */
        if (x - last >= 22) {
            g_string_append_printf(out, "<text class=\"tick\" x=\"%.2f%%\" "
                                   "y=\"%d\">", x, LINES_PX + 16);
            text_append_html(out, chart->places[i].text);
            g_string_append(out, "</text>");
            last = x;
        }
    }
    g_string_append_printf(out, "<text class=\"axis-title\" x=\"50%%\" "
                           "y=\"%d\">", LINES_PX + 34);
    text_append_html(out, chart->axis_x);
    g_string_append(out, "</text>");
}

/* The maximum of all medians and runs. */
static double chart_lines_max(const ChartLines *chart)
{
    double max = 0;
    guint i, k;

    for (i = 0; i < chart->line_count; i++) {
        for (k = 0; k < chart->place_count; k++) {
            const Spread *spread = &chart->lines[i].spreads[k];

            if (!isnan(spread->median)) {
                max = MAX(max, MAX(spread->median, spread->most));
            }
        }
    }
    return max * 1.03;
}

void chart_lines(const ChartLines *chart, GString *out)
{
    Scale scale = chart_scale(chart_lines_max(chart), chart->unit);
    g_autoptr(GPtrArray) labels = g_ptr_array_new_with_free_func(
        chart_label_free);
    guint i, k;
    int height;

    for (i = 0; i < chart->line_count; i++) {
        const ChartLine *line = &chart->lines[i];
        double last = NAN;

        for (k = 0; k < chart->place_count; k++) {
            last = isnan(line->spreads[k].median) ? last
                : line->spreads[k].median;
        }
        if (!isnan(last)) {
            Label *label = g_new0(Label, 1);

            label->line = line;
            label->words = chart_wrap(line->name);
            label->end_y = chart_line_y(&scale, last);
            label->y = label->end_y - 6;
            g_ptr_array_add(labels, label);
        }
    }
    height = chart_place_labels(labels);
    g_string_append(out, "<div class=\"lines\"><div class=\"axis-title\">");
    text_append_html(out, chart->axis_y);
    g_string_append_printf(out, ", %s</div><svg class=\"plot\" height=\"%d\" "
                           "role=\"img\" aria-label=\"", scale.unit_name,
                           MAX(height, LINES_PX + 40));
    text_append_html(out, chart->axis_y);
    g_string_append(out, " over ");
    text_append_html(out, chart->axis_x);
    g_string_append(out, "\">");
    chart_lines_axes(out, chart, &scale);
    for (i = 0; i < chart->line_count; i++) {
        chart_line_points(out, chart, &scale, &chart->lines[i]);
    }
    for (i = 0; i < labels->len; i++) {
        chart_draw_label(out, labels->pdata[i]);
    }
    g_string_append(out, "</svg></div>\n");
}

/* ---- strips of memory ---- */

const double chart_share_tops[CHART_SHARE_COUNT] = { 0.01, 0.1, 0.5, 1 };
/*
 * More is closer to the ink, which has more contrast than any colour, and
 * higher: shades alone are hard to tell apart.
 */
const char *const chart_share_classes[CHART_SHARE_COUNT] = {
    "hint bin-3", "hint bin-2", "hint bin-1", "hint bin-0",
};

/* The colour of a share; CHART_SHARE_COUNT: none at all. */
static guint chart_share_bin(double share)
{
    guint bin = 0;

    if (!(share > 0)) {
        return CHART_SHARE_COUNT;
    }
    while (bin + 1 < CHART_SHARE_COUNT && share > chart_share_tops[bin]) {
        bin++;
    }
    return bin;
}

/* One strip; neighbours of one colour are one shape. */
static void chart_strip(GString *out, const double *shares, guint count,
                        int y, int height)
{
    guint c, end;

    for (c = 0; c < count; c = end) {
        guint bin = chart_share_bin(shares[c]);

        for (end = c + 1; end < count &&
             chart_share_bin(shares[end]) == bin; end++) {
            continue;
        }
        if (bin < CHART_SHARE_COUNT) {
            int tall = height * (int)(bin + 1) / CHART_SHARE_COUNT;

            g_string_append_printf(
                out, "<rect class=\"fill %s\" x=\"%.3f%%\" y=\"%d\" "
                "width=\"%.3f%%\" height=\"%d\"/>",
                chart_share_classes[bin], 100.0 * c / count,
                y + height - tall, 100.0 * (end - c) / count, tall);
        }
    }
}

static void chart_strips_axis(GString *out, const ChartStrips *chart, int y)
{
    Scale scale = { .max = chart->len_bytes };
    guint i;

    chart_set_unit(&scale, CHART_BYTES);
    for (i = 0; i <= 4; i++) {
        g_string_append_printf(
            out, "<line class=\"axis-line\" x1=\"%u%%\" x2=\"%u%%\" "
            "y1=\"%d\" y2=\"%d\"/><text class=\"%s\" x=\"%u%%\" "
            "y=\"%d\">", i * 25, i * 25, y, y + 4,
            i == 0 ? "tick tick-first" : i == 4 ? "tick tick-last" : "tick",
            i * 25, y + 15);
        chart_tick_text(out, &scale, chart->len_bytes * i / 4);
        g_string_append_printf(out, "%s%s</text>", i ? "" : " ",
                               i ? "" : scale.unit_name);
    }
}

void chart_strips(const ChartStrips *chart, GString *out)
{
    guint columns = chart->column_count, row, c;
    g_autofree double *all = g_new0(double, columns);
    int top = STRIP_PX + STRIP_GAP_PX;
    int bottom = top + (int)chart->row_count * STRIP_ROW_PX;

    for (row = 0; row < chart->row_count; row++) {
        for (c = 0; c < columns; c++) {
            all[c] += chart->shares[row * columns + c];
        }
    }
    g_string_append_printf(out, "<svg class=\"plot strips\" height=\"%d\" "
                           "role=\"img\" aria-label=\"Where the working set "
                           "lies in ", bottom + 20);
    text_append_html(out, chart->name);
    g_string_append(out, "\">");
    chart_strip(out, all, columns, 0, STRIP_PX);
    g_string_append_printf(out, "<rect class=\"frame\" x=\"0\" y=\"0\" "
                           "width=\"100%%\" height=\"%d\"/>", STRIP_PX);
    for (row = 0; row < chart->row_count; row++) {
        chart_strip(out, &chart->shares[row * columns], columns,
                    top + row * STRIP_ROW_PX, STRIP_ROW_PX - 1);
    }
    g_string_append_printf(out, "<rect class=\"frame\" x=\"0\" y=\"%d\" "
                           "width=\"100%%\" height=\"%d\"/>", top,
                           bottom - top);
    g_string_append_printf(
        out, "<text class=\"tick-y\" x=\"0\" dx=\"-7\" y=\"%d\">all</text>"
        "<text class=\"tick-y\" x=\"0\" dx=\"-7\" y=\"%d\">%s</text>"
        "<text class=\"tick-y\" x=\"0\" dx=\"-7\" y=\"%d\">%s</text>",
        STRIP_PX / 2 + 4, top + STRIP_ROW_PX, chart->first, bottom - 1,
        chart->last);
    chart_strips_axis(out, chart, bottom);
    g_string_append(out, "</svg>\n");
}
