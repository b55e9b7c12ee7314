#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Make trace.h for the standalone build from util/trace-events.

Inside QEMU, tracetool does this.  Here an event prints a line to standard error
if the environment variable FASTLOAD_TRACE is set; else it costs one branch.
"""
import re
import sys

EVENT = re.compile(r'^(\w+)\((.*?)\)\s+(".*)$')


def argument_name(declaration: str) -> str:
    """The name in a declaration such as "const char *name"."""
    found = re.search(r'(\w+)$', declaration.strip())
    if not found:
        sys.exit(f'gen-trace: not an argument: {declaration}')
    return found.group(1)


def main() -> None:
    source, target = sys.argv[1:3]
    out = ['/* Generated from util/trace-events; do not edit. */',
           '#ifndef FASTLOAD_TRACE_H', '#define FASTLOAD_TRACE_H',
           'static inline bool fastload_trace_is_on(void)', '{',
           '    static int on = -1;',
           '    int now = __atomic_load_n(&on, __ATOMIC_RELAXED);', '',
           '    if (now < 0) {',
           '        now = getenv("FASTLOAD_TRACE") != NULL;',
           '        __atomic_store_n(&on, now, __ATOMIC_RELAXED);',
           '    }', '    return now;', '}', '']
    with open(source, encoding='ascii') as events:
        for line in events:
            if not line.strip() or line.startswith('#'):
                continue
            match = EVENT.match(line.strip())
            if not match:
                sys.exit(f'{source}: not a trace event: {line.strip()}')
            name, args, fmt = match.groups()
            names = [argument_name(arg) for arg in args.split(',')]
            out += [f'static inline void trace_{name}({args})', '{',
                    '    if (fastload_trace_is_on()) {',
                    f'        fprintf(stderr, "{name} " {fmt} "\\n", '
                    f'{", ".join(names)});', '    }', '}', '']
    out.append('#endif')
    with open(target, 'w', encoding='ascii') as header:
        header.write('\n'.join(out) + '\n')


main()
