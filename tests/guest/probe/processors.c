/*
 * The other processors of the probe guest, by their local APIC
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "probe.h"

enum {
    APIC_COMMAND_LOW = 0x300,
    APIC_PENDING = 1 << 12,
    APIC_OTHERS = 3 << 18,
    APIC_ASSERT = 1 << 14,
    APIC_INIT = 5 << 8,
    APIC_STARTUP = 6 << 8,
    START_MAX_MS = 5000,
};

extern const uint8_t ap_trampoline[], ap_trampoline_end[];
extern _Atomic unsigned processors_begun;   /* start.S counts it up */

static void apic_send(uint32_t command)
{
    volatile uint32_t *low = (uint32_t *)(0xfee00000UL + APIC_COMMAND_LOW);

    *low = APIC_OTHERS | APIC_ASSERT | command;
    while (*low & APIC_PENDING) {
        relax();
    }
}

void processors_start(unsigned count)
{
    uint64_t until = now_ns() + START_MAX_MS * 1000000ULL;
    uint8_t *to = (uint8_t *)AP_TRAMPOLINE;
    const uint8_t *from = ap_trampoline;

    if (count == 1) {
        return;
    }
    while (from < ap_trampoline_end) {
        *(volatile uint8_t *)to++ = *from++;
    }
    apic_send(APIC_INIT);
    apic_send(APIC_STARTUP | AP_TRAMPOLINE >> 12);
    while (atomic_load(&processors_begun) < count) {
        if (now_ns() > until) {
            fail("%u of %u processors have begun",
                 atomic_load(&processors_begun), count);
        }
        relax();
    }
}
