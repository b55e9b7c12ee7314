/*
 * fastload-bench: results with pictures.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Puts a result into report.html, which is part of the program.  All drawing
 * is done there, by the browser; nothing is fetched.
 */
#include "bench.h"
#include "bench-report.h"

#define HTML_PLACE "@BENCH_JSON@"

/* So that nothing in a result can end the script that it stands in. */
static char *html_escape(const char *json)
{
    GString *text = g_string_new(NULL);

    for (; *json; json++) {
        if (*json == '<') {
            g_string_append(text, "\\u003c");
        } else {
            g_string_append_c(text, *json);
        }
    }
    return g_string_free(text, FALSE);
}

char *html_text(JsonNode *result)
{
    GResource *resource = bench_report_get_resource();
    g_autoptr(GBytes) page = g_resource_lookup_data(
        resource, "/fastload/report.html", 0, NULL);
    g_autofree char *json = json_to_string(result, FALSE);
    g_autofree char *safe = html_escape(json);
    const char *all = page ? g_bytes_get_data(page, NULL) : NULL;
    const char *place = all ? strstr(all, HTML_PLACE) : NULL;
    g_autofree char *head = NULL;

    assert(place); /* it is built in */
    head = g_strndup(all, place - all);
    return g_strconcat(head, safe, place + strlen(HTML_PLACE), NULL);
}
