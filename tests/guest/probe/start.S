/*
 * Where the probe guest begins: from PVH's 32-bit entry to C in long mode
 *
 * PVH (Xen's docs/misc/pvh.pandoc) enters with paging off, flat segments and
 * %ebx = the physical address of the start info.  The other processors begin
 * in real mode at the copy of ap_trampoline that processors.c makes.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "layout.h"

#define CR0_PE          0x00000001
#define CR0_PG_PE       0x80000001
#define CR4_PAE         0x00000020
#define MSR_EFER        0xc0000080
#define EFER_LME        0x00000100
#define PRESENT_WRITE   0x003
#define HUGE_PAGE       0x080
#define CODE32          0x08
#define CODE64          0x10
#define DATA            0x18

        /* The note by which QEMU's -kernel knows a PVH guest. */
        .section .note.pvh, "a", @note
        .align 4
        .long 4                         /* of the name */
        .long 8                         /* of what follows it */
        .long 18                        /* XEN_ELFNOTE_PHYS32_ENTRY */
        .asciz "Xen"
        .quad entry

        .text
        .code32
        .globl entry
entry:
        cli
        cld
        movl %ebx, %esi
        /* Zero the memory that is not in the file: a reset does not. */
        movl $bss_begin, %edi
        movl $bss_end, %ecx
        subl %edi, %ecx
        shrl $2, %ecx
        xorl %eax, %eax
        rep stosl

        /* Map all memory at its physical addresses, in pages of 2 MiB. */
        movl $page_directories, %edi
        movl $PRESENT_WRITE | HUGE_PAGE, %eax
        xorl %edx, %edx
        movl $MAPPED_GIB * 512, %ecx
1:      movl %eax, (%edi)
        movl %edx, 4(%edi)
        addl $8, %edi
        addl $0x200000, %eax
        adcl $0, %edx
        loop 1b
        movl $page_pointers, %edi
        movl $page_directories + PRESENT_WRITE, %eax
        movl $MAPPED_GIB, %ecx
2:      movl %eax, (%edi)
        addl $8, %edi
        addl $4096, %eax
        loop 2b
        movl $page_pointers + PRESENT_WRITE, page_root

        lgdt gdt_pointer
        movl $first_stack_end, %esp
        movl $entry64, %ebp
        /* Falls through: %ebp is where to go on, %esi is kept. */

to_long_mode:
        movl $CR4_PAE, %eax
        movl %eax, %cr4
        movl $page_root, %eax
        movl %eax, %cr3
        movl $MSR_EFER, %ecx
        rdmsr
        orl $EFER_LME, %eax
        wrmsr
        movl $CR0_PG_PE, %eax
        movl %eax, %cr0
        ljmp $CODE64, $3f

        .code64
3:      movl $DATA, %eax
        movl %eax, %ds
        movl %eax, %es
        movl %eax, %ss
        lidt idt_pointer
        movl %ebp, %ebp
        jmp *%rbp

entry64:
        movl %esi, %edi
        call probe_main

        .globl halt
halt:
        cli
        hlt
        jmp halt

ap_entry64:
        movl $1, %eax
        lock xaddl %eax, processors_begun
        /* Processor 0 has a stack of its own, and counts as one. */
        movl %eax, %edi
        imull $STACK_BYTES, %eax, %eax
        leaq ap_stacks(%rax), %rsp
        call processor_main
        jmp halt

        .code32
ap_entry32:
        movl $DATA, %eax
        movl %eax, %ds
        movl %eax, %es
        movl %eax, %ss
        movl $ap_entry64, %ebp
        jmp to_long_mode

        /* Copied to AP_TRAMPOLINE; real mode, %cs is that address >> 4. */
        .code16
        .globl ap_trampoline, ap_trampoline_end
ap_trampoline:
        cli
        movw %cs, %ax
        movw %ax, %ds
        lgdtl ap_gdt_pointer - ap_trampoline
        movl $CR0_PE, %eax
        movl %eax, %cr0
        ljmpl $CODE32, $ap_entry32
        .align 8
ap_gdt_pointer:
        .word gdt_end - gdt - 1
        .long gdt
ap_trampoline_end:

        /* An exception is a bug of this program: it is reported. */
        .code64
        .altmacro
        .macro exception_stub vector
exception_\vector:
        .if (\vector == 8) || (\vector >= 10 && \vector <= 14) || \
            (\vector == 17)
        .else
        pushq $0                        /* where others have an error code */
        .endif
        pushq $\vector
        jmp exception_common
        .endm
        .set vector, 0
        .rept EXCEPTION_COUNT
        exception_stub %vector
        .set vector, vector + 1
        .endr

exception_common:
        popq %rdi                       /* the vector */
        popq %rsi                       /* the error code */
        movq (%rsp), %rdx               /* where */
        movq %cr2, %rcx
        andq $-16, %rsp
        call exception
        jmp halt

        .section .rodata
        .globl exception_stubs
        .align 8
exception_stubs:
        .macro exception_address vector
        .quad exception_\vector
        .endm
        .set vector, 0
        .rept EXCEPTION_COUNT
        exception_address %vector
        .set vector, vector + 1
        .endr

        .data
        .align 8
gdt:    .quad 0
        .quad 0x00cf9b000000ffff        /* CODE32: accessed, so not written */
        .quad 0x00af9b000000ffff        /* CODE64 */
        .quad 0x00cf93000000ffff        /* DATA */
gdt_end:
gdt_pointer:
        .word gdt_end - gdt - 1
        .long gdt
        .align 8
        .globl idt_pointer
idt_pointer:
        .word EXCEPTION_COUNT * 16 - 1
        .quad idt
        .globl processors_begun
        .align 4
processors_begun:
        .long 1

        .bss
        .align 4096
page_root:
        .skip 4096
page_pointers:
        .skip 4096
page_directories:
        .skip MAPPED_GIB * 4096
        .skip STACK_BYTES
first_stack_end:
        /* Stack N, of processor N from 1 on, ends where N + 1 would begin. */
        .globl ap_stacks
ap_stacks:
        .skip CPUS_MAX_ASM * STACK_BYTES

        .section .note.GNU-stack, "", @progbits
