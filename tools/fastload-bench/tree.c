/*
 * fastload-bench: a result as a tree of JSON.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Reads members of a tree that is not trusted: a member that is missing, or of
 * another kind, reads as NULL, 0, NAN or "".  Knows nothing of what the members
 * mean.  Nothing here can fail.
 */
#include "bench.h"
#include <math.h>

JsonObject *tree_object(JsonObject *object, const char *name)
{
    JsonNode *node = object ? json_object_get_member(object, name) : NULL;

    return node && JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node)
                                                : NULL;
}

JsonArray *tree_array(JsonObject *object, const char *name)
{
    JsonNode *node = object ? json_object_get_member(object, name) : NULL;

    return node && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node)
                                               : NULL;
}

guint tree_length(JsonArray *array)
{
    return array ? json_array_get_length(array) : 0;
}

JsonObject *tree_element(JsonArray *array, guint i)
{
    JsonNode *node = json_array_get_element(array, i);

    return JSON_NODE_HOLDS_OBJECT(node) ? json_node_get_object(node) : NULL;
}

static double tree_number_of(JsonNode *node)
{
    GType type = node && JSON_NODE_HOLDS_VALUE(node)
        ? json_node_get_value_type(node) : G_TYPE_INVALID;

    return type == G_TYPE_DOUBLE || type == G_TYPE_INT64
        ? json_node_get_double(node) : NAN;
}

double tree_number(JsonObject *object, const char *name)
{
    return tree_number_of(object ? json_object_get_member(object, name)
                                 : NULL);
}

double tree_number_at(JsonArray *array, guint i)
{
    return tree_number_of(json_array_get_element(array, i));
}

const char *tree_text(JsonObject *object, const char *name)
{
    JsonNode *node = object ? json_object_get_member(object, name) : NULL;

    return node && json_node_get_value_type(node) == G_TYPE_STRING
        ? json_node_get_string(node) : "";
}

/* With control characters escaped, since the text is not trusted. */
char *tree_safe_text(JsonObject *object, const char *name)
{
    return g_strescape(tree_text(object, name), NULL);
}

bool tree_is_true(JsonObject *object, const char *name)
{
    JsonNode *node = object ? json_object_get_member(object, name) : NULL;

    return node && json_node_get_value_type(node) == G_TYPE_BOOLEAN &&
           json_node_get_boolean(node);
}

Spread tree_spread(JsonObject *contender, const char *measure)
{
    JsonObject *object = tree_object(tree_object(contender, "measures"),
                                     measure);
    JsonArray *rounds = tree_array(object, "rounds");
    Spread spread = {
        .median = tree_number(object, "median"),
        .least = tree_number(object, "min"),
        .most = tree_number(object, "max"),
        .ratio = tree_number(object, "ratio"),
        .rounds = g_array_new(FALSE, FALSE, sizeof(double)),
    };
    guint i;

    for (i = 0; i < MIN(tree_length(rounds), BENCH_REPEAT_COUNT_MAX); i++) {
        JsonNode *node = json_array_get_element(rounds, i);
        double value = JSON_NODE_HOLDS_VALUE(node)
            ? json_node_get_double(node) : NAN;

        g_array_append_val(spread.rounds, value);
    }
    if (!isfinite(spread.median)) {
        spread.median = NAN;
    }
    spread.least = isfinite(spread.least) ? spread.least : spread.median;
    spread.most = isfinite(spread.most) ? spread.most : spread.median;
    return spread;
}

void tree_spread_clear(Spread *spread)
{
    g_array_unref(spread->rounds);
}
