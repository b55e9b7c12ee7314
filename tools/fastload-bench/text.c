/*
 * fastload-bench: figures as text and back, and messages.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * One way to write and to read a time, a size and a share, for all that is
 * printed and for all options.
 */
#include "bench.h"
#include <math.h>

char *text_ns(double ns)
{
    static const char *const units[] = { "ns", "us", "ms", "s", NULL };
    uint32_t unit = 0;

    if (isnan(ns)) {
        return g_strdup("-");
    }
    if (ns == 0) {
        return g_strdup("0 ns");
    }
    while (ns >= 999.5 && units[unit + 1]) {
        ns /= 1000;
        unit++;
    }
    return g_strdup_printf("%.*f %s", ns < 9.995 ? 2 : ns < 99.95 ? 1 : 0, ns,
                           units[unit]);
}

char *text_bytes(double bytes)
{
    g_autofree char *text = NULL;
    g_auto(GStrv) words = NULL;

    if (!(bytes >= 0 && bytes < 0x1p64)) {
        return g_strdup("-");
    }
    text = g_format_size_full(bytes, G_FORMAT_SIZE_IEC_UNITS);
    /* GLib uses a no-break space there, which some terminals do not know. */
    words = g_strsplit(text, "\302\240", -1);
    return g_strjoinv(" ", words);
}

char *text_percent(double share)
{
    return isnan(share) ? g_strdup("-") : g_strdup_printf("%.0f %%",
                                                          share * 100);
}

char *text_ratio(double ratio)
{
    return isnan(ratio) ? g_strdup("-")
        : g_strdup_printf(ratio < 0.00995 ? "%.2g" : ratio < 0.0995 ? "%.3f"
                          : "%.2f", ratio);
}

char *text_spread(double median, double least, double most)
{
    return isnan(median) || median == 0 ? g_strdup("")
        : g_strdup_printf("+-%.0f%%", (most - least) / 2 / median * 100);
}

typedef struct Unit {
    const char *suffix;
    double factor;
} Unit;

static bool text_parse_unit(const char *text, const Unit *units,
                            uint64_t *ret_value)
{
    char *end;
    double number = g_ascii_strtod(text, &end);
    uint32_t i;

    if (end == text || !isfinite(number) || number < 0 ||
        !g_ascii_isdigit(*text)) {
        return false;
    }
    for (i = 0; units[i].suffix; i++) {
        if (!g_ascii_strcasecmp(end, units[i].suffix) &&
            number * units[i].factor < 0x1p63) {
            *ret_value = llround(number * units[i].factor);
            return true;
        }
    }
    return false;
}

bool text_parse_size(const char *text, uint64_t *ret_bytes)
{
    static const Unit units[] = {
        { "", 1 }, { "k", 0x1p10 }, { "m", 0x1p20 }, { "g", 0x1p30 },
        { "t", 0x1p40 }, { "kib", 0x1p10 }, { "mib", 0x1p20 },
        { "gib", 0x1p30 }, { "tib", 0x1p40 }, { NULL, 0 },
    };

    return text_parse_unit(text, units, ret_bytes);
}

bool text_parse_ns(const char *text, uint64_t *ret_ns)
{
    static const Unit units[] = {
        { "ns", 1 }, { "us", 1e3 }, { "ms", 1e6 }, { "s", 1e9 }, { NULL, 0 },
    };

    return text_parse_unit(strcmp(text, "0") ? text : "0s", units, ret_ns);
}

bool text_parse_share(const char *text, uint64_t *ret_millionths)
{
    static const Unit units[] = {
        { "", 1e6 }, { "%", 1e4 }, { " %", 1e4 }, { NULL, 0 },
    };

    return text_parse_unit(text, units, ret_millionths);
}

void text_append_html(GString *out, const char *text)
{
    g_autofree char *valid = g_utf8_make_valid(text, -1);
    g_autofree char *escaped = g_markup_escape_text(valid, -1);

    g_string_append(out, escaped);
}

void text_print_error(const char *text)
{
    g_autofree char *safe = g_strdup(text);
    char *at;

    for (at = safe; *at; at++) {
        *at = g_ascii_iscntrl(*at) ? '?' : *at;
    }
    fprintf(stderr, "fastload-bench: %s\n", safe);
}
