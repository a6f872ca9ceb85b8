// SPDX-License-Identifier: GPL-3.0-or-later
// What GNU Radio knows about a running block and does not tell Python: the ends of its streams, and tb.stop().
#include <gnuradio/block.h>
#include <gnuradio/block_detail.h>
#include <gnuradio/buffer.h>
#include <gnuradio/buffer_reader.h>
#include <pybind11/pybind11.h>
#include <boost/thread/thread.hpp>
#include <stdexcept>
#include <string>

namespace py = pybind11;

namespace {

void check(int port, int ports, const char* kind)
{
    if (port < 0 || port >= ports)
        throw std::out_of_range("the block has " + std::to_string(ports) + " " + kind + " ports, so there is no port " +
                                std::to_string(port));
}

bool read_done(gr::block_detail& detail, int port)
{
    check(port, detail.ninputs(), "input");
    const auto reader = detail.input(port);
    const gr::thread::scoped_lock guard(*reader->mutex());
    return reader->done();
}

bool input_done(gr::block_detail& detail, int port)
{
    if (!read_done(detail, port))
        return false;
    const auto writer = detail.input(port)->buffer()->link(); // null once the writer is gone
    return !writer || !writer->detail() || writer->detail()->done();
}

int items_available(gr::block_detail& detail, int port)
{
    check(port, detail.ninputs(), "input");
    const auto reader = detail.input(port);
    const gr::thread::scoped_lock guard(*reader->mutex());
    return reader->items_available();
}

bool output_done(gr::block_detail& detail, int port)
{
    check(port, detail.noutputs(), "output");
    const auto buffer = detail.output(port);
    const gr::thread::scoped_lock guard(*buffer->mutex());
    return buffer->done();
}

} // namespace

PYBIND11_MODULE(unmix_gnuradio, m)
{
    m.doc() = "State of running GNU Radio blocks, for blocks written in Python.";
    py::module::import("gnuradio.gr"); // registers block_detail
    m.def("input_done", &input_done, py::arg("detail"), py::arg("port"),
          "Whether nothing will be written to an input any more. detail: block.detail(). Raises IndexError.");
    m.def("read_done", &read_done, py::arg("detail"), py::arg("port"),
          "Whether GNU Radio will end the block when it asks for more than waits at an input. So it does at the end of "
          "the input, but also once another reader of the same stream has finished. Raises IndexError.");
    m.def("items_available", &items_available, py::arg("detail"), py::arg("port"),
          "Items that wait at an input, which may be more than work was called with. Raises IndexError.");
    m.def("output_done", &output_done, py::arg("detail"), py::arg("port"),
          "Whether nobody will read an output any more: the block behind it has finished. Raises IndexError.");
    m.def("stop_requested", &boost::this_thread::interruption_requested,
          "Whether tb.stop() (or a reconfiguration) waits for the block in whose thread this is called.");
}
