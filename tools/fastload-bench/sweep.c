/*
 * fastload-bench: which knobs a result sweeps.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A sweep is a knob with several values while all other knobs are constant, so
 * that a contender's figures can be drawn over it.  A knob with words (classes
 * of storage, for example) needs three values: for two, the tables are enough.
 * Works from a result, which is not trusted.
 */
#include "bench.h"
#include <math.h>

#define WORD_COUNT_MIN 3
/* A result of this program does not have more. */
#define POINT_COUNT_MAX 5000

typedef struct Knob {
    char *name;
    char *text;
    double number;           /* NAN: it is a word */
    bool is_contender;       /* of the contender; else of the scenario */
} Knob;

/* One contender in one scenario. */
typedef struct Point {
    GPtrArray *knobs;        /* of Knob */
    const char *name;        /* these are borrowed from the tree */
    JsonObject *contender;
    bool is_baseline;
} Point;

static void sweep_knob_free(void *data)
{
    Knob *knob = data;

    g_free(knob->name);
    g_free(knob->text);
    g_free(knob);
}

static void sweep_point_free(void *data)
{
    Point *point = data;

    g_ptr_array_unref(point->knobs);
    g_free(point);
}

static void sweep_line_free(void *data)
{
    SweepLine *line = data;

    g_free(line->name);
    g_free(line->key);
    g_ptr_array_unref(line->contenders);
    g_free(line);
}

static void sweep_value_free(void *data)
{
    SweepValue *value = data;

    g_free(value->text);
    g_free(value);
}

static void sweep_free(void *data)
{
    Sweep *sweep = data;

    g_free(sweep->knob);
    g_free(sweep->place);
    g_free(sweep->key);
    g_ptr_array_unref(sweep->values);
    g_ptr_array_unref(sweep->lines);
    g_free(sweep);
}

/* ---- knobs of all that was run ---- */

/* The number in "64 MiB", "20 us", "25 %", "2"; NAN for other texts. */
static double sweep_number(const char *text)
{
    static const struct {
        const char *name;
        double size;
    } units[] = {
        { "", 1 }, { "%", 0.01 }, { "ns", 1 }, { "us", 1e3 }, { "ms", 1e6 },
        { "s", 1e9 }, { "B", 1 }, { "bytes", 1 }, { "KiB", 0x1p10 },
        { "MiB", 0x1p20 }, { "GiB", 0x1p30 }, { "TiB", 0x1p40 },
    };
    char *end;
    double number = g_ascii_strtod(text, &end);
    guint i;

    if (end == text || !isfinite(number) || number < 0) {
        return NAN;
    }
    end += *end == ' ';
    for (i = 0; i < G_N_ELEMENTS(units); i++) {
        if (!strcmp(end, units[i].name)) {
            return number * units[i].size;
        }
    }
    return NAN;
}

static char *sweep_text(JsonObject *object, const char *name)
{
    JsonNode *node = json_object_get_member(object, name);

    if (!isnan(tree_number(object, name))) {
        return g_strdup_printf("%.15g", tree_number(object, name));
    }
    if (json_node_get_value_type(node) == G_TYPE_BOOLEAN) {
        return g_strdup(json_node_get_boolean(node) ? "on" : "off");
    }
    return g_strdup(tree_text(object, name));
}

static void sweep_add_knobs(GPtrArray *knobs, JsonObject *object,
                            bool is_contender, double readahead_bytes)
{
    g_autoptr(GList) names = object ? json_object_get_members(object) : NULL;
    GList *at;

    for (at = names; at; at = at->next) {
        g_autofree char *text = sweep_text(object, at->data);
        Knob *knob;

        if (!*text) {
            continue;
        }
        knob = g_new0(Knob, 1);
        knob->name = g_strdup(at->data);
        knob->number = sweep_number(text);
        if (!strcmp(text, "as is") && !isnan(readahead_bytes)) {
            g_autofree char *size = text_bytes(readahead_bytes);
            char *told = g_strdup_printf("as is: %s", size);

            g_free(text);
            text = told;
            knob->number = readahead_bytes;
        }
        knob->text = g_steal_pointer(&text);
        knob->is_contender = is_contender;
        g_ptr_array_add(knobs, knob);
    }
}

static void sweep_add_points(GPtrArray *points, JsonObject *snapshot,
                             JsonObject *scenario, double readahead_bytes)
{
    JsonArray *contenders = tree_array(scenario, "contenders");
    const char *baseline = tree_text(scenario, "baseline");
    guint i;

    for (i = 0; i < tree_length(contenders); i++) {
        JsonObject *contender = tree_element(contenders, i);
        Point *point = g_new0(Point, 1);

        point->knobs = g_ptr_array_new_with_free_func(sweep_knob_free);
        point->contender = contender;
        point->name = tree_text(contender, "name");
        point->is_baseline = !strcmp(tree_text(contender, "label"), baseline);
        if (tree_object(snapshot, "knobs")) {
            sweep_add_knobs(point->knobs, tree_object(snapshot, "knobs"),
                            false, NAN);
        } else {
            /* The snapshot's label serves as a knob. */
            Knob *knob = g_new0(Knob, 1);

            knob->name = g_strdup("snapshot");
            knob->text = g_strdup(tree_text(snapshot, "label"));
            knob->number = NAN;
            g_ptr_array_add(point->knobs, knob);
        }
        sweep_add_knobs(point->knobs, tree_object(scenario, "knobs"), false,
                        readahead_bytes);
        sweep_add_knobs(point->knobs, tree_object(contender, "knobs"), true,
                        NAN);
        g_ptr_array_add(points, point);
    }
}

static GPtrArray *sweep_points(JsonObject *root)
{
    GPtrArray *points = g_ptr_array_new_with_free_func(sweep_point_free);
    JsonArray *works = tree_array(root, "works");
    double readahead_bytes = tree_number(tree_object(root, "environment"),
                                         "read_ahead_bytes");
    guint w, s;

    for (w = 0; w < tree_length(works); w++) {
        JsonObject *work = tree_element(works, w);
        JsonArray *scenarios = tree_array(work, "scenarios");

        for (s = 0; s < tree_length(scenarios); s++) {
            sweep_add_points(points, tree_object(work, "snapshot"),
                             tree_element(scenarios, s), readahead_bytes);
        }
    }
    return points;
}

/* ---- which of them vary ---- */

/* The name of the knob, "\n" and the name of the contender. */
static char *sweep_vary_key(const char *knob_name, const char *contender_name)
{
    return g_strdup_printf("%s\n%s", knob_name, contender_name);
}

/*
 * Maps each knob's key to the set of its texts; a contender's knob also has a
 * key with the contender's name.
 */
static GHashTable *sweep_texts(const GPtrArray *points)
{
    GHashTable *texts = g_hash_table_new_full(
        g_str_hash, g_str_equal, g_free, (GDestroyNotify)g_hash_table_unref);
    guint i, k;

    for (i = 0; i < points->len; i++) {
        const Point *point = points->pdata[i];

        for (k = 0; k < point->knobs->len; k++) {
            const Knob *knob = point->knobs->pdata[k];
            g_autofree char *key = sweep_vary_key(
                knob->name, knob->is_contender ? point->name : "");
            GHashTable *set = g_hash_table_lookup(texts, key);

            if (!set) {
                set = g_hash_table_new(g_str_hash, g_str_equal);
                g_hash_table_insert(texts, g_steal_pointer(&key), set);
            }
            g_hash_table_add(set, knob->text);
        }
    }
    return texts;
}

static bool sweep_varies(GHashTable *texts, const Knob *knob,
                         const char *contender_name)
{
    g_autofree char *key = sweep_vary_key(
        knob->name, knob->is_contender ? contender_name : "");

    return g_hash_table_size(g_hash_table_lookup(texts, key)) > 1;
}

/* ---- sweeps of one knob ---- */

static Knob *sweep_knob_of(const Point *point, const char *name)
{
    guint k;

    for (k = 0; k < point->knobs->len; k++) {
        Knob *knob = point->knobs->pdata[k];

        if (!strcmp(knob->name, name)) {
            return knob;
        }
    }
    return NULL;
}

/*
 * All other knobs: two points with the same key belong to one line.  @ret_shown
 * gets those that vary, as text for people.
 */
static char *sweep_key(GHashTable *texts, const Point *point,
                       const char *swept, bool is_contender, char **ret_shown)
{
    GString *key = g_string_new(is_contender ? point->name : "");
    GString *shown = g_string_new(is_contender ? point->name : "");
    guint k;

    for (k = 0; k < point->knobs->len; k++) {
        const Knob *knob = point->knobs->pdata[k];
        g_autofree char *name = g_strdelimit(g_strdup(knob->name), "_", ' ');
        const char *gap = !shown->len ? "" : is_contender ? " " : ", ";

        if (knob->is_contender != is_contender ||
            !strcmp(knob->name, swept)) {
            continue;
        }
        g_string_append_printf(key, "\n%s=%s", knob->name, knob->text);
        if (!sweep_varies(texts, knob, point->name) ||
            !strcmp(knob->text, "off")) {
            continue;
        }
        g_string_append_printf(shown, !strcmp(knob->text, "on") ? "%s%s"
                               : "%s%s %s", gap, name, knob->text);
    }
    *ret_shown = g_string_free(shown, FALSE);
    return g_string_free(key, FALSE);
}

static Sweep *sweep_at(GPtrArray *sweeps, GHashTable *texts,
                       const Point *point, const char *swept)
{
    g_autofree char *shown = NULL;
    g_autofree char *key = sweep_key(texts, point, swept, false, &shown);
    Sweep *sweep;
    guint i;

    for (i = 0; i < sweeps->len; i++) {
        sweep = sweeps->pdata[i];
        if (!strcmp(sweep->key, key)) {
            return sweep;
        }
    }
    sweep = g_new0(Sweep, 1);
    sweep->knob = g_strdup(swept);
    sweep->place = g_steal_pointer(&shown);
    sweep->key = g_steal_pointer(&key);
    sweep->values = g_ptr_array_new_with_free_func(sweep_value_free);
    sweep->lines = g_ptr_array_new_with_free_func(sweep_line_free);
    g_ptr_array_add(sweeps, sweep);
    return sweep;
}

static SweepLine *sweep_line_at(Sweep *sweep, GHashTable *texts,
                                const Point *point)
{
    g_autofree char *shown = NULL;
    g_autofree char *key = sweep_key(texts, point, sweep->knob, true, &shown);
    SweepLine *line;
    guint i;

    for (i = 0; i < sweep->lines->len; i++) {
        line = sweep->lines->pdata[i];
        if (!strcmp(line->key, key)) {
            return line;
        }
    }
    line = g_new0(SweepLine, 1);
    line->loader = point->name;
    line->name = g_steal_pointer(&shown);
    line->key = g_steal_pointer(&key);
    line->contenders = g_ptr_array_new();
    g_ptr_array_add(sweep->lines, line);
    return line;
}

static void sweep_add_value(Sweep *sweep, const Knob *knob)
{
    SweepValue *value;
    guint i;

    for (i = 0; i < sweep->values->len; i++) {
        value = sweep->values->pdata[i];
        if (!strcmp(value->text, knob->text)) {
            return;
        }
    }
    value = g_new0(SweepValue, 1);
    value->text = g_strdup(knob->text);
    value->number = knob->number;
    g_ptr_array_add(sweep->values, value);
}

static int sweep_by_number(const void *a, const void *b)
{
    const SweepValue *x = *(SweepValue *const *)a;
    const SweepValue *y = *(SweepValue *const *)b;

    return x->number < y->number ? -1 : x->number > y->number;
}

/* Sorts numbers; words keep their order, at equal distances. */
static void sweep_order_values(Sweep *sweep)
{
    guint i;

    for (i = 0; i < sweep->values->len; i++) {
        const SweepValue *value = sweep->values->pdata[i];

        sweep->is_words = sweep->is_words || isnan(value->number);
    }
    if (!sweep->is_words) {
        g_ptr_array_sort(sweep->values, sweep_by_number);
    }
    for (i = 0; i < sweep->values->len && sweep->is_words; i++) {
        SweepValue *value = sweep->values->pdata[i];

        value->number = i;
    }
}

static bool sweep_is_one(const Sweep *sweep)
{
    return sweep->values->len >= (sweep->is_words ? WORD_COUNT_MIN : 2);
}

/* Puts each point on its line, at the place of its value. */
static void sweep_fill(GPtrArray *sweeps, GHashTable *texts,
                       const GPtrArray *points, const char *swept)
{
    guint i, v;

    for (i = 0; i < points->len; i++) {
        const Point *point = points->pdata[i];
        const Knob *knob = sweep_knob_of(point, swept);
        bool is_level = !knob && point->is_baseline;
        Sweep *sweep;
        SweepLine *line;

        if (!knob && !is_level) {
            continue;
        }
        sweep = sweep_at(sweeps, texts, point, swept);
        if (!sweep_is_one(sweep)) {
            continue;
        }
        line = sweep_line_at(sweep, texts, point);
        line->is_level = is_level;
        g_ptr_array_set_size(line->contenders, sweep->values->len);
        for (v = 0; v < sweep->values->len; v++) {
            const SweepValue *value = sweep->values->pdata[v];

            if (is_level || !strcmp(value->text, knob->text)) {
                line->contenders->pdata[v] = point->contender;
            }
        }
    }
}

static void sweep_find_knob(GPtrArray *found, GHashTable *texts,
                            const GPtrArray *points, const char *swept)
{
    g_autoptr(GPtrArray) sweeps = g_ptr_array_new();
    guint i;

    for (i = 0; i < points->len; i++) {
        const Knob *knob = sweep_knob_of(points->pdata[i], swept);

        if (knob) {
            sweep_add_value(sweep_at(sweeps, texts, points->pdata[i], swept),
                            knob);
        }
    }
    for (i = 0; i < sweeps->len; i++) {
        sweep_order_values(sweeps->pdata[i]);
    }
    sweep_fill(sweeps, texts, points, swept);
    for (i = 0; i < sweeps->len; i++) {
        if (sweep_is_one(sweeps->pdata[i])) {
            g_ptr_array_add(found, sweeps->pdata[i]);
        } else {
            sweep_free(sweeps->pdata[i]);
        }
    }
}

GPtrArray *sweep_find(JsonObject *root)
{
    GPtrArray *found = g_ptr_array_new_with_free_func(sweep_free);
    g_autoptr(GPtrArray) points = sweep_points(root);
    g_autoptr(GHashTable) texts = sweep_texts(points);
    g_autoptr(GHashTable) seen = g_hash_table_new(g_str_hash, g_str_equal);
    guint i, k;

    for (i = 0; i < points->len && points->len <= POINT_COUNT_MAX; i++) {
        const Point *point = points->pdata[i];

        for (k = 0; k < point->knobs->len; k++) {
            const Knob *knob = point->knobs->pdata[k];

            if (strcmp(knob->name, "snapshot") &&
                g_hash_table_add(seen, knob->name)) {
                sweep_find_knob(found, texts, points, knob->name);
            }
        }
    }
    return found;
}
