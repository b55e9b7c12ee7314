/*
 * The machine of the probe guest: ports, the serial port, time, ways to end it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "probe.h"

enum {
    SERIAL = 0x3f8,
    SERIAL_ENABLE = SERIAL + 1,
    SERIAL_FIFO = SERIAL + 2,
    SERIAL_LINE = SERIAL + 3,
    SERIAL_STATUS = SERIAL + 5,
    SERIAL_HAS_BYTE = 0x01,
    SERIAL_TAKES_BYTES = 0x20,
    SERIAL_FIFO_BYTES = 16,

    PIT_CHANNEL_2 = 0x42,
    PIT_COMMAND = 0x43,
    PIT_GATE = 0x61,
    PIT_HZ = 1193182,
    CALIBRATION_TICKS = PIT_HZ / 200,   /* 5 ms */

    FW_CFG_SELECT = 0x510,
    FW_CFG_DATA = 0x511,
    FW_CFG_PROCESSORS = 5,

    KEYBOARD_COMMAND = 0x64,
    KEYBOARD_RESET = 0xfe,
    DEBUG_EXIT = 0x501,                 /* isa-debug-exit's default */
    DEBUG_EXIT_VALUE = 1,               /* QEMU ends with twice that plus 1 */
    ACPI_CONTROL = 0x604,               /* where QEMU's firmware puts it */
    ACPI_SLEEP_S5 = 0x2000,

    LINE_BYTES = 256,
};

typedef struct Gate {
    uint16_t low;
    uint16_t selector;
    uint16_t flags;
    uint16_t middle;
    uint32_t high;
    uint32_t zero;
} Gate;

typedef struct Line {
    char text[LINE_BYTES];
    size_t used;
} Line;

extern const uint64_t exception_stubs[EXCEPTION_COUNT];
Gate idt[EXCEPTION_COUNT];              /* loaded by start.S */

static Lock serial_lock;
static uint64_t ns_per_tick_x2_32;      /* constant after machine_begin() */

void exception(uint64_t vector, uint64_t code, uint64_t at, uint64_t touched);

void *memset(void *to, int byte, size_t bytes)
{
    void *at = to;

    __asm__ volatile("rep stosb" : "+D" (at), "+c" (bytes) : "a" (byte)
                     : "memory");
    return to;
}

void *memcpy(void *to, const void *from, size_t bytes)
{
    void *at = to;

    __asm__ volatile("rep movsb" : "+D" (at), "+S" (from), "+c" (bytes) :
                     : "memory");
    return to;
}

/* ---- time */

static uint64_t ticks(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a" (low), "=d" (high));
    return (uint64_t)high << 32 | low;
}

uint64_t now_ns(void)
{
    return (unsigned __int128)ticks() * ns_per_tick_x2_32 >> 32;
}

/* How fast the time stamp counter counts, by the interval timer. */
static void time_calibrate(void)
{
    uint64_t begin, ns = CALIBRATION_TICKS * 1000000000ULL / PIT_HZ;

    out8(PIT_GATE, (in8(PIT_GATE) & ~2) | 1);   /* no sound, counting */
    out8(PIT_COMMAND, 0xb0);                    /* channel 2, once */
    out8(PIT_CHANNEL_2, CALIBRATION_TICKS & 0xff);
    out8(PIT_CHANNEL_2, CALIBRATION_TICKS >> 8);
    begin = ticks();
    while (!(in8(PIT_GATE) & 0x20)) {
        relax();
    }
    ns_per_tick_x2_32 = (ns << 32) / (ticks() - begin);
}

/* ---- the serial port */

static void put_char(Line *line, char c)
{
    if (line->used < LINE_BYTES - 1) {          /* one is for the newline */
        line->text[line->used++] = c;
    }
}

static void put_text(Line *line, const char *text)
{
    while (*text) {
        put_char(line, *text++);
    }
}

static void put_number(Line *line, uint64_t value, unsigned base,
                       unsigned width)
{
    char digits[24];
    unsigned count = 0;

    do {
        digits[count++] = "0123456789abcdef"[value % base];
        value /= base;
    } while (value || count < width);
    while (count) {
        put_char(line, digits[--count]);
    }
}

/* %s %u %x %llu %llx, the last three with a width that zeros fill. */
static void put_format(Line *line, const char *format, va_list ap)
{
    for (; *format; format++) {
        unsigned width = 0, longs = 0;

        if (*format != '%') {
            put_char(line, *format);
            continue;
        }
        for (format++; *format >= '0' && *format <= '9'; format++) {
            width = width * 10 + (*format - '0');
        }
        for (; *format == 'l'; format++) {
            longs++;
        }
        if (*format == 's') {
            put_text(line, va_arg(ap, const char *));
        } else {
            put_number(line, longs ? va_arg(ap, unsigned long long) :
                       va_arg(ap, unsigned), *format == 'x' ? 16 : 10, width);
        }
    }
}

/* A string of bytes in one exit from the guest, as many as the FIFO takes. */
static void serial_write(const char *text, size_t bytes)
{
    while (bytes) {
        size_t now = bytes < SERIAL_FIFO_BYTES ? bytes : SERIAL_FIFO_BYTES;

        while (!(in8(SERIAL_STATUS) & SERIAL_TAKES_BYTES)) {
            relax();
        }
        bytes -= now;
        __asm__ volatile("rep outsb" : "+S" (text), "+c" (now) : "d" (SERIAL)
                         : "memory");
    }
}

__attribute__((format(printf, 2, 0)))
static void say_list(const char *head, const char *format, va_list ap)
{
    Line line = { .used = 0 };

    put_text(&line, head);
    put_format(&line, format, ap);
    line.text[line.used++] = '\n';
    lock_take(&serial_lock);
    serial_write(line.text, line.used);
    lock_give(&serial_lock);
}

void say(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    say_list("FASTLOAD ", format, ap);
    va_end(ap);
}

void fail(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    say_list("FASTLOAD FAIL ", format, ap);
    va_end(ap);
    halt();
}

int serial_read(void)
{
    return in8(SERIAL_STATUS) & SERIAL_HAS_BYTE ? in8(SERIAL) : -1;
}

static void serial_begin(void)
{
    out8(SERIAL_ENABLE, 0);     /* no interrupts */
    out8(SERIAL_LINE, 0x03);    /* 8 bits, no parity */
    out8(SERIAL_FIFO, 0x07);    /* on, and empty */
    /* A reset may have cut a line: READY must not become its end. */
    serial_write("\n", 1);
}

/* ---- exceptions */

void exception(uint64_t vector, uint64_t code, uint64_t at, uint64_t touched)
{
    fail("exception %llu, code %llx, at %llx, address %llx",
         (unsigned long long)vector, (unsigned long long)code,
         (unsigned long long)at, (unsigned long long)touched);
}

static void exceptions_begin(void)
{
    for (unsigned i = 0; i < EXCEPTION_COUNT; i++) {
        uint64_t at = exception_stubs[i];

        idt[i] = (Gate) { .low = at, .selector = 0x10, .flags = 0x8e00,
                          .middle = at >> 16, .high = at >> 32 };
    }
}

void machine_begin(void)
{
    exceptions_begin();
    serial_begin();
    time_calibrate();
}

unsigned machine_processors(void)
{
    unsigned low;

    out16(FW_CFG_SELECT, FW_CFG_PROCESSORS);
    low = in8(FW_CFG_DATA);
    return low | (unsigned)in8(FW_CFG_DATA) << 8;
}

/* ---- the ends */

void machine_reboot(void)
{
    out8(KEYBOARD_COMMAND, KEYBOARD_RESET);
    halt();
}

void machine_triple_fault(void)
{
    static const struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } none = { 0, 0 };

    __asm__ volatile("lidt %0; ud2" : : "m" (none));
    halt();
}

void machine_power_off(void)
{
    out16(ACPI_CONTROL, ACPI_SLEEP_S5);
    halt();
}

void machine_debug_exit(void)
{
    out8(DEBUG_EXIT, DEBUG_EXIT_VALUE);
    fail("QEMU has no isa-debug-exit");
}
