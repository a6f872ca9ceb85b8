// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include <gnuradio/unmix/separator.h>

#include <atomic>
#include <functional>
#include <string>

namespace gr::unmix {

/*!
 * \brief What the threads of one separation share: the queue of windows, progress and cancellation.
 *
 * On the CPU each thread works on its own windows with torch single-threaded: nothing to wait for between the many
 * small operations, which scales better than torch's own threads. On a GPU one thread feeds the device.
 */
class workers
{
public:
    //! device: "cpu" or "cuda". units: amount of work of all windows, for the progress.
    workers(const control& ctl, std::size_t windows, const std::string& device, double units);

    std::size_t threads() const { return d_threads; }

    //! Windows that one thread should hold at a time.
    std::size_t batch() const { return d_batch; }

    //! Takes up to `most` windows from the queue; returns how many and where they begin.
    std::size_t take(std::size_t most, std::size_t& first);

    void advance(double units) { d_units_done.fetch_add(units, std::memory_order_relaxed); }
    void finish_window() { d_windows_done.fetch_add(1, std::memory_order_relaxed); }
    bool cancelled() const;

    //! Runs `work` on every thread and reports progress meanwhile; rethrows the first exception of a thread.
    void run(const std::function<void()>& work);

private:
    const control& d_control;
    const std::size_t d_windows;
    const double d_units;
    const bool d_cpu;
    std::size_t d_threads;
    std::size_t d_batch;
    std::atomic<std::size_t> d_next{ 0 };
    std::atomic<std::size_t> d_windows_done{ 0 };
    std::atomic<double> d_units_done{ 0 };
    std::atomic<bool> d_stop{ false };
};

} // namespace gr::unmix
