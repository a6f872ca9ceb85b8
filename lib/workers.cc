// SPDX-License-Identifier: GPL-3.0-or-later
#include "workers.h"

#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace gr::unmix {
namespace {

//! Keeps torch single-threaded in the calling thread. at::set_num_threads would do so for the whole process, and
//! rebuilds thread pools at every call, which takes longer than a window.
void run_torch_alone()
{
    at::get_num_threads(); // torch sets the thread's number of OpenMP threads in its first use: before ours
    using setter = void (*)(int);
    if (const auto set = reinterpret_cast<setter>(dlsym(RTLD_DEFAULT, "omp_set_num_threads")))
        set(1);
}

} // namespace

workers::workers(const control& ctl, std::size_t windows, const std::string& device, double units)
    : d_control(ctl), d_windows(windows), d_units(units), d_cpu(device == "cpu"), d_threads(1)
{
    const std::size_t batch = std::max<std::size_t>(1, ctl.batch);
    if (d_cpu) {
        const std::size_t wanted = ctl.threads ? ctl.threads : static_cast<std::size_t>(at::get_num_threads());
        d_threads = std::clamp<std::size_t>(wanted, 1, std::max<std::size_t>(1, std::min(windows, batch)));
    }
    // Equal shares: 100 windows in batches of 64 on 2 threads are 4 batches of 25, not 32 + 32 + 32 + 4.
    const std::size_t share = std::max<std::size_t>(1, batch / d_threads);
    const std::size_t rounds = std::max<std::size_t>(1, (windows + share * d_threads - 1) / (share * d_threads));
    d_batch = std::max<std::size_t>(1, (windows + rounds * d_threads - 1) / (rounds * d_threads));
}

std::size_t workers::take(std::size_t most, std::size_t& first)
{
    first = d_next.fetch_add(most);
    return first >= d_windows ? 0 : std::min(most, d_windows - first);
}

bool workers::cancelled() const
{
    return d_stop.load(std::memory_order_relaxed) ||
           (d_control.cancel && d_control.cancel->load(std::memory_order_relaxed));
}

void workers::run(const std::function<void()>& work)
{
    std::mutex mutex;
    std::condition_variable ended;
    std::exception_ptr failure;
    std::size_t running = d_threads;

    const auto body = [&] {
        try {
            if (d_cpu)
                run_torch_alone();
            const c10::InferenceMode guard;
            work();
        } catch (...) {
            const std::lock_guard lock(mutex);
            if (!failure)
                failure = std::current_exception();
            d_stop = true;
        }
        const std::lock_guard lock(mutex);
        --running;
        ended.notify_one();
    };

    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < d_threads; ++i)
        threads.emplace_back(body);
    {
        std::unique_lock lock(mutex);
        while (!ended.wait_for(lock, std::chrono::milliseconds(100), [&] { return running == 0; })) {
            lock.unlock();
            try {
                if (d_control.progress &&
                    !d_control.progress(std::min(1.0, d_units_done.load() / d_units), d_windows_done.load()))
                    d_stop = true;
            } catch (...) {
                const std::lock_guard guard(mutex);
                failure = std::current_exception();
                d_stop = true;
            }
            lock.lock();
        }
    }
    for (auto& thread : threads)
        thread.join();
    if (failure)
        std::rethrow_exception(failure);
    if (d_control.progress && !cancelled())
        d_control.progress(1.0, d_windows_done.load());
}

} // namespace gr::unmix
