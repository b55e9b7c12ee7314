/*
 * The parts of the probe guest: guest-core.h without a kernel
 *
 *   start.S       the entry, long mode, stacks, the way of an exception to C
 *   main.c        memory, the processors' work, what bytes are obeyed
 *   machine.c     ports, the serial port, time, ways to end the machine
 *   processors.c  the other processors
 *   virtio.c      PCI, and one request at a time to virtio devices
 *
 * Interrupts stay off and everything is polled, so that only a vCPU's own page
 * faults and exits interrupt what it does.
 *
 * Lines that it writes beside those of guest-core.h:
 *   FASTLOAD SECTOR sum=N
 * Bytes that it obeys beside those:
 *   'b'  read the first sector of the disk into a page whose other bytes are
 *        0xa5, and say the sum of all bytes of the page
 *   'r'  reboot by the keyboard controller
 *   't'  reboot by a triple fault
 *   'o'  power off by ACPI
 *   'x'  end QEMU by the device isa-debug-exit, with exit code 3
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#ifndef PROBE_H
#define PROBE_H

#include <stddef.h>
#include "../guest-core.h"
#include "layout.h"

/* ---- machine.c */

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" : : "a" (value), "Nd" (port));
}

static inline void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" : : "a" (value), "Nd" (port));
}

static inline void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" : : "a" (value), "Nd" (port));
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;

    __asm__ volatile("inb %1, %0" : "=a" (value) : "Nd" (port));
    return value;
}

static inline uint16_t in16(uint16_t port)
{
    uint16_t value;

    __asm__ volatile("inw %1, %0" : "=a" (value) : "Nd" (port));
    return value;
}

static inline uint32_t in32(uint16_t port)
{
    uint32_t value;

    __asm__ volatile("inl %1, %0" : "=a" (value) : "Nd" (port));
    return value;
}

static inline void relax(void)
{
    __asm__ volatile("pause" : : : "memory");
}

typedef _Atomic unsigned Lock;      /* 0: nobody has it */

static inline bool lock_try(Lock *lock)
{
    return atomic_exchange(lock, 1) == 0;
}

static inline void lock_take(Lock *lock)
{
    while (!lock_try(lock)) {
        relax();
    }
}

static inline void lock_give(Lock *lock)
{
    atomic_store(lock, 0);
}

/* The compiler may make calls of these by itself. */
void *memset(void *to, int byte, size_t bytes);
void *memcpy(void *to, const void *from, size_t bytes);

/* Exceptions, the serial port, time: before all else, on processor 0. */
void machine_begin(void);

/* A byte from the serial port, or -1. */
int serial_read(void);

/* How many processors the machine has; QEMU's fw_cfg knows. */
unsigned machine_processors(void);

__attribute__((noreturn)) void machine_reboot(void);
__attribute__((noreturn)) void machine_triple_fault(void);
__attribute__((noreturn)) void machine_power_off(void);
__attribute__((noreturn)) void machine_debug_exit(void);

/* Says "FASTLOAD FAIL reason", and stops the processor. */
__attribute__((format(printf, 1, 2), noreturn))
void fail(const char *format, ...);

__attribute__((noreturn)) void halt(void);

/* ---- processors.c */

/* Start the others: each calls processor_main() with its number. */
void processors_start(unsigned count);

/* In main.c; start.S calls it on all processors but 0. */
__attribute__((noreturn)) void processor_main(unsigned idx);

/* ---- virtio.c: by one processor at a time */

/* Find the devices, and start them. */
void virtio_begin(void);

/* Find a disk that was plugged into the bus 0, and start it. */
void virtio_begin_plugged(void);

/*
 * Ask each device for something when it has answered the last request.  A
 * device that never answers stops counting, and stops nothing else.
 */
void virtio_poll(uint64_t now);

/* When the disk has answered the next request, say SECTOR. */
void virtio_say_sector(void);

#endif
