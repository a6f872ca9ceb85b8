// SPDX-License-Identifier: GPL-3.0-or-later
#pragma once

#include "kernels.h"
#include "prior_impl.h"

#include <gnuradio/unmix/separator.h>

#include <string>
#include <vector>

namespace gr::unmix {

/*!
 * \brief The windows that one thread works on: slots that are loaded from the mixtures and stored in the result.
 *
 * Tensors have room for `capacity` slots, of which the first `active` are in use.
 */
struct batch {
    batch(const mixtures& input, std::size_t capacity);

    //! Copies window `from` of the mixtures into the next slot.
    void load(std::size_t from);

    //! Writes a slot's gains and the given estimates [K, capacity, 2, samples] to the window's place in the result.
    void store(std::size_t slot, const at::Tensor& estimates, separation& result) const;

    //! Drops a slot: the last one takes its place.
    void drop(std::size_t slot);

    //! Denoises `noisy` [active, 2, samples] with source k's prior into mean[k].
    void denoise(std::size_t k, const at::Tensor& noisy, const at::Tensor& alpha_bar);

    //! The first `active` windows of source k of a tensor [K, capacity, 2, samples].
    at::Tensor source(const at::Tensor& all, std::size_t k) const { return all[k].narrow(0, 0, active); }

    kernel_shape shape() const
    {
        return { static_cast<std::size_t>(active), static_cast<std::size_t>(2 * samples), sources, stride };
    }

    at::Tensor room(at::IntArrayRef sizes) const { return at::zeros(sizes, options); }

    const mixtures& input;
    const std::int64_t capacity;
    const std::int64_t samples;
    const std::size_t sources;
    const std::size_t stride; //!< floats between two sources
    at::TensorOptions options;
    std::int64_t active = 0;

    at::Tensor mixture;                //!< [capacity, 2, samples]
    at::Tensor x;                      //!< [K, capacity, 2, samples], the separator's variables
    at::Tensor mean;                   //!< [K, capacity, 2, samples], posterior means
    at::Tensor gains;                  //!< [capacity, K]
    at::Tensor index;                  //!< int64 [capacity], the windows' own numbers
    std::vector<at::Tensor> side;      //!< per source [capacity, P]
    std::vector<std::size_t> window;   //!< per active slot: its place in the mixtures
    std::vector<at::Tensor*> per_slot; //!< further tensors [capacity, ...] that drop() moves
};

//! The prior's device; throws std::invalid_argument unless the mixtures are complete and make sense.
std::string checked_device(const mixtures& input);

//! An empty result of the right sizes.
separation empty_result(const mixtures& input, std::size_t block);

} // namespace gr::unmix
