/*
 * GLib's locks, so that the thread sanitizer can see them.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * GLib locks with futex(2) and is not built with the sanitizer, which then
 * reports races everywhere.  In a sanitized build these functions are found
 * before GLib's, tell the sanitizer, and call GLib's.  In other builds this
 * file is empty.
 */
#include "qemu/osdep.h"

#ifdef __SANITIZE_THREAD__
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

typedef void TsanMutexFunc(GMutex *mutex);
typedef gboolean TsanTryFunc(GMutex *mutex);
typedef void TsanCondFunc(GCond *cond, GMutex *mutex);
typedef gboolean TsanUntilFunc(GCond *cond, GMutex *mutex, gint64 end_us);

/* Looking a symbol up twice does no harm. */
static void *tsan_real(void **real, const char *name)
{
    void *func = __atomic_load_n(real, __ATOMIC_RELAXED);

    if (!func) {
        func = dlsym(RTLD_NEXT, name);
        assert(func);
        __atomic_store_n(real, func, __ATOMIC_RELAXED);
    }
    return func;
}

#define REAL(type, name) \
    static void *real; \
    type *func = (type *)tsan_real(&real, name)

void g_mutex_clear(GMutex *mutex)
{
    REAL(TsanMutexFunc, "g_mutex_clear");

    __tsan_mutex_destroy(mutex, __tsan_mutex_linker_init);
    func(mutex);
}

void g_mutex_lock(GMutex *mutex)
{
    REAL(TsanMutexFunc, "g_mutex_lock");

    __tsan_mutex_pre_lock(mutex, __tsan_mutex_linker_init);
    func(mutex);
    __tsan_mutex_post_lock(mutex, __tsan_mutex_linker_init, 1);
}

gboolean g_mutex_trylock(GMutex *mutex)
{
    REAL(TsanTryFunc, "g_mutex_trylock");
    const unsigned int flags = __tsan_mutex_linker_init |
                               __tsan_mutex_try_lock;
    gboolean is_locked;

    __tsan_mutex_pre_lock(mutex, flags);
    is_locked = func(mutex);
    __tsan_mutex_post_lock(mutex, is_locked
                           ? flags : flags | __tsan_mutex_try_lock_failed, 1);
    return is_locked;
}

void g_mutex_unlock(GMutex *mutex)
{
    REAL(TsanMutexFunc, "g_mutex_unlock");

    __tsan_mutex_pre_unlock(mutex, __tsan_mutex_linker_init);
    func(mutex);
    __tsan_mutex_post_unlock(mutex, __tsan_mutex_linker_init);
}

void g_cond_wait(GCond *cond, GMutex *mutex)
{
    REAL(TsanCondFunc, "g_cond_wait");

    __tsan_mutex_pre_unlock(mutex, __tsan_mutex_linker_init);
    __tsan_mutex_post_unlock(mutex, __tsan_mutex_linker_init);
    func(cond, mutex);
    __tsan_mutex_pre_lock(mutex, __tsan_mutex_linker_init);
    __tsan_mutex_post_lock(mutex, __tsan_mutex_linker_init, 1);
}

gboolean g_cond_wait_until(GCond *cond, GMutex *mutex, gint64 end_us)
{
    REAL(TsanUntilFunc, "g_cond_wait_until");
    gboolean is_told;

    __tsan_mutex_pre_unlock(mutex, __tsan_mutex_linker_init);
    __tsan_mutex_post_unlock(mutex, __tsan_mutex_linker_init);
    is_told = func(cond, mutex, end_us);
    __tsan_mutex_pre_lock(mutex, __tsan_mutex_linker_init);
    __tsan_mutex_post_lock(mutex, __tsan_mutex_linker_init, 1);
    return is_told;
}
#endif /* __SANITIZE_THREAD__ */
