/*
 * One request at a time to the virtio disks and the random number device
 *
 * The legacy interface (VIRTIO 1.2, section 4.1.4.8), because it takes a
 * handful of ports and no more.  The rings and buffers lie in guest memory,
 * so a device that was restored too early touches pages that are missing.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "probe.h"

enum {
    PCI_ADDRESS = 0xcf8,
    PCI_DATA = 0xcfc,
    PCI_DEVICES = 32,
    PCI_COMMAND = 0x04,
    PCI_BAR0 = 0x10,
    PCI_PORTS_AND_MASTER = 0x05,
    PORTS_FIRST = 0xc000,
    PORTS_EACH = 0x80,

    VIRTIO_DISK = 0x10011af4,           /* device and vendor */
    VIRTIO_RANDOM = 0x10051af4,
    VIRTIO_QUEUE_PAGE = 0x08,
    VIRTIO_QUEUE_SIZE = 0x0c,
    VIRTIO_QUEUE_SELECT = 0x0e,
    VIRTIO_QUEUE_NOTIFY = 0x10,
    VIRTIO_STATUS = 0x12,
    STATUS_DRIVER = 3,                  /* acknowledged, and there is one */
    STATUS_DRIVER_OK = 7,

    DESCRIPTOR_NEXT = 1,
    DESCRIPTOR_WRITE = 2,               /* the device writes there */
    NO_INTERRUPT = 1,
    QUEUE_SIZE_MAX = 1024,
    QUEUE_BYTES = 32768,                /* enough for QUEUE_SIZE_MAX */

    SECTOR_BYTES = 512,
    BUFFER_BYTES = 4096,
    BUFFER_BYTE = 0xa5,                 /* where no device has written */
    DISK_OK = 0,
    EVERY_MS = 50,
};

typedef struct Descriptor {
    uint64_t address;
    uint32_t bytes;
    uint16_t flags;
    uint16_t next;
} Descriptor;

typedef struct Device {
    /* constant after virtio_begin() */
    bool is_there;
    bool is_disk;
    uint16_t ports;
    uint16_t queue_size;
    volatile uint16_t *available;       /* flags, index, entries */
    volatile uint16_t *used;            /* flags, index, ... */
    /* who polls */
    uint16_t asked;
    uint64_t asked_ns;
    uint32_t header[4];                 /* of a disk's request: a read */
    volatile uint8_t status;
    uint8_t queue[QUEUE_BYTES] __attribute__((aligned(4096)));
    uint8_t buffer[BUFFER_BYTES] __attribute__((aligned(4096)));
} Device;

static Device disk, other_disk, plugged_disk, random_device;
static _Atomic uint64_t answered;
static _Atomic bool is_sector_wanted;
static uint32_t slots_used;     /* by disks that were there from the start */

uint64_t io_answered(void)
{
    return atomic_load(&answered);
}

void virtio_say_sector(void)
{
    if (!disk.is_there) {
        say("SECTOR: there is no disk");
        return;
    }
    atomic_store(&is_sector_wanted, true);
}

static uint32_t pci_read(unsigned slot, unsigned where)
{
    out32(PCI_ADDRESS, 0x80000000u | slot << 11 | where);
    return in32(PCI_DATA);
}

static void pci_write(unsigned slot, unsigned where, uint32_t value)
{
    out32(PCI_ADDRESS, 0x80000000u | slot << 11 | where);
    out32(PCI_DATA, value);
}

static void device_begin(Device *device, unsigned slot, bool is_disk)
{
    uint32_t bar = pci_read(slot, PCI_BAR0);
    size_t used_off;

    if (device->is_there || !(bar & 1)) {       /* memory, not ports */
        return;
    }
    if (!(bar & ~3)) {                          /* small firmware gives none */
        bar = PORTS_FIRST + slot * PORTS_EACH;
        pci_write(slot, PCI_BAR0, bar);
    }
    pci_write(slot, PCI_COMMAND, (pci_read(slot, PCI_COMMAND) & 0xffff) |
              PCI_PORTS_AND_MASTER);
    device->is_disk = is_disk;
    device->ports = bar & ~3;
    out8(device->ports + VIRTIO_STATUS, 0);
    out8(device->ports + VIRTIO_STATUS, STATUS_DRIVER);
    out16(device->ports + VIRTIO_QUEUE_SELECT, 0);
    device->queue_size = in16(device->ports + VIRTIO_QUEUE_SIZE);
    if (device->queue_size == 0 || device->queue_size > QUEUE_SIZE_MAX) {
        return;
    }
    device->available = (uint16_t *)(device->queue +
                                     device->queue_size * sizeof(Descriptor));
    used_off = device->queue_size * sizeof(Descriptor) +
               (3 + device->queue_size) * sizeof(uint16_t);
    device->used = (uint16_t *)(device->queue + ((used_off + 4095) & ~4095UL));
    device->available[0] = NO_INTERRUPT;
    memset(device->buffer, BUFFER_BYTE, BUFFER_BYTES);
    out32(device->ports + VIRTIO_QUEUE_PAGE, (uintptr_t)device->queue >> 12);
    out8(device->ports + VIRTIO_STATUS, STATUS_DRIVER_OK);
    device->is_there = true;
}

void virtio_begin(void)
{
    for (unsigned slot = 0; slot < PCI_DEVICES; slot++) {
        uint32_t name = pci_read(slot, 0);

        if (name == VIRTIO_DISK) {
            device_begin(disk.is_there ? &other_disk : &disk, slot, true);
            slots_used |= 1u << slot;
        } else if (name == VIRTIO_RANDOM) {
            device_begin(&random_device, slot, false);
        }
    }
}

void virtio_begin_plugged(void)
{
    for (unsigned slot = 0; slot < PCI_DEVICES; slot++) {
        if (pci_read(slot, 0) == VIRTIO_DISK && !(slots_used & 1u << slot)) {
            device_begin(&plugged_disk, slot, true);
        }
    }
}

static void describe(Device *device, unsigned idx, volatile void *memory,
                     uint32_t bytes, uint16_t flags)
{
    volatile Descriptor *descriptor = (Descriptor *)device->queue + idx;

    descriptor->address = (uintptr_t)memory;
    descriptor->bytes = bytes;
    descriptor->flags = flags;
    descriptor->next = idx + 1;
}

static void ask(Device *device)
{
    if (device->is_disk) {
        memset(device->header, 0, sizeof(device->header));
        device->status = 0xff;
        describe(device, 0, device->header, sizeof(device->header),
                 DESCRIPTOR_NEXT);
        describe(device, 1, device->buffer, SECTOR_BYTES,
                 DESCRIPTOR_NEXT | DESCRIPTOR_WRITE);
        describe(device, 2, &device->status, 1, DESCRIPTOR_WRITE);
    } else {
        describe(device, 0, device->buffer, 64, DESCRIPTOR_WRITE);
    }
    device->available[2 + device->asked % device->queue_size] = 0;
    atomic_thread_fence(memory_order_seq_cst);
    device->available[1] = ++device->asked;
    atomic_thread_fence(memory_order_seq_cst);
    out16(device->ports + VIRTIO_QUEUE_NOTIFY, 0);
}

static void answer(Device *device)
{
    uint64_t sum = 0;

    if (!device->is_disk) {
        atomic_fetch_add(&answered, 1);
        return;
    }
    if (device->status != DISK_OK) {
        say("SECTOR: the disk says %u", device->status);
        return;
    }
    atomic_fetch_add(&answered, 1);
    if (device == &disk && atomic_exchange(&is_sector_wanted, false)) {
        /* The bytes behind the sector are still there, if nothing was lost. */
        for (unsigned i = 0; i < BUFFER_BYTES; i++) {
            sum += ((volatile uint8_t *)device->buffer)[i];
        }
        say("SECTOR sum=%llu", (unsigned long long)sum);
    }
}

static void device_poll(Device *device, uint64_t now)
{
    if (!device->is_there) {
        return;
    }
    if (device->asked_ns && device->used[1] == device->asked) {
        device->asked_ns = 0;
        atomic_thread_fence(memory_order_seq_cst);
        answer(device);
    }
    if (!device->asked_ns) {
        device->asked_ns = now;
        ask(device);
    }
}

void virtio_poll(uint64_t now)
{
    static uint64_t last_ns;

    if (now - last_ns >= EVERY_MS * 1000000ULL) {
        last_ns = now;
        device_poll(&disk, now);
        device_poll(&other_disk, now);
        device_poll(&plugged_disk, now);
        device_poll(&random_device, now);
    }
}
