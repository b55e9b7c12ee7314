/*
 * What the fuzz targets share.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A target is a file with fuzz_one(); fuzz-main.c makes a program of it.  What
 * a target finds wrong, aborts.
 */
#ifndef FUZZ_H
#define FUZZ_H

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(x)                                                           \
    do {                                                                   \
        if (!(x)) {                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #x); \
            abort();                                                       \
        }                                                                  \
    } while (0)

/* Whether the input is what it should be. */
bool fuzz_one(const uint8_t *data, size_t byte_count);

#endif /* FUZZ_H */
