/* Collectives on gloo's point-to-point buffers. gloo's own allreduce adds up in an order that
 * depends on the layout and reports a lost peer by address; here every sum is taken in rank order
 * and every wait has a rank to name. No exception leaves this file. */
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/store.h>
#include <gloo/transport/tcp/device.h>
#include <gloo/transport/unbound_buffer.h>

#include <csignal>
#include <net/if.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

extern "C" {
#include "common/bounds.h"
#include "kernels/comm/comm.h"
}

namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::milliseconds;
using Buffer = gloo::transport::UnboundBuffer;

constexpr int64_t kDefaultTimeoutMs = 60000;
constexpr int64_t kBlameTimeoutMs = 500; // a rank that failed first publishes why before it closes
constexpr size_t kStoreValueMax = 64 << 10;
constexpr size_t kBucketFloats = NPO_COMM_BUCKET_BYTES / sizeof(float);

struct Failure {
    npo_err code;
    std::string text;
};

[[noreturn]] void fail(npo_err code, const std::string &text)
{
    throw Failure{code, text};
}

std::string rank_name(int rank)
{
    return "rank " + std::to_string(rank);
}

// gloo's rendezvous over the callbacks. Keys are "rank_0", "rank_1", ...
class CallbackStore : public gloo::rendezvous::Store {
  public:
    CallbackStore(const npo_comm_store *store, Clock::time_point deadline)
        : store_(store), deadline_(deadline)
    {
    }

    void set(const std::string &key, const std::vector<char> &data) override
    {
        npo_err err =
            store_->set(store_->self, ("address." + key).c_str(), data.data(), data.size());
        if (err)
            fail(err, std::string("cannot publish the address: ") + npo_err_text(err));
    }

    std::vector<char> get(const std::string &key) override
    {
        std::vector<char> data(kStoreValueMax);
        size_t len = 0;
        int64_t left = std::chrono::duration_cast<Milliseconds>(deadline_ - Clock::now()).count();
        npo_err err = store_->get(store_->self, ("address." + key).c_str(),
                                  std::max<int64_t>(left, 0), data.data(), data.size(), &len);
        if (err == NPO_E_TIMEOUT)
            fail(err, rank_of(key) + " has not come to the rendezvous in time");
        if (err)
            fail(err, "cannot read the address of " + rank_of(key) + ": " + npo_err_text(err));
        data.resize(len);
        return data;
    }

    void wait(const std::vector<std::string> &keys) override
    {
        for (const std::string &key : keys)
            get(key);
    }

    void wait(const std::vector<std::string> &keys, const Milliseconds &) override
    {
        wait(keys);
    }

  private:
    static std::string rank_of(const std::string &key)
    {
        return "rank " + key.substr(key.find_first_of("0123456789"));
    }

    const npo_comm_store *store_;
    Clock::time_point deadline_;
};

enum class Way { kSend, kReceive };

class Gloo : public npo_comm {
  public:
    explicit Gloo(const npo_comm_gloo_options &options);
    void allreduce_sum(float *x, size_t n);
    void close();
    npo_err fail_operation(const char *operation, const Failure &failure, npo_error *error);

  private:
    void start();
    void exchange_bucket(float *x, size_t first, size_t n);
    void post(Buffer &buffer, Way way, int peer, uint64_t slot, size_t offset, size_t bytes);
    void wait(Buffer &buffer, Way way, int peer);
    [[noreturn]] void blame(int peer, bool timed_out, const char *what);
    int blamed_by(int peer);

    const npo_comm_store *store_;
    int64_t timeout_ms_;
    Clock::time_point deadline_;
    std::shared_ptr<gloo::rendezvous::Context> context_;
    uint64_t slot_ = 0;        // counts transfers; the same on every rank
    std::vector<float> stage_; // [world, share of a bucket]
    // Of the array that an allreduce works on, by peer.
    std::vector<std::unique_ptr<Buffer>> sends_, receives_, stages_;
};

// gloo writes to sockets whose other end may be gone, with plain writev.
void ignore_broken_pipes()
{
    struct sigaction action;
    if (sigaction(SIGPIPE, nullptr, &action) != 0 || action.sa_handler != SIG_DFL)
        return;
    action = {};
    action.sa_handler = SIG_IGN;
    sigaction(SIGPIPE, &action, nullptr);
}

Gloo::Gloo(const npo_comm_gloo_options &options)
    : npo_comm(), store_(options.store),
      timeout_ms_(options.timeout_ms ? options.timeout_ms : kDefaultTimeoutMs)
{
    int64_t connect_ms =
        options.connect_timeout_ms ? options.connect_timeout_ms : kDefaultTimeoutMs;
    rank = options.rank;
    world = options.world;
    broken = false;
    name = "gloo";
    ignore_broken_pipes();
    gloo::transport::tcp::attr attr;
    attr.hostname = options.host ? options.host : "127.0.0.1";
    if (options.interface) {
        attr.hostname.clear();
        attr.iface = options.interface;
    }
    std::shared_ptr<gloo::transport::Device> device = gloo::transport::tcp::CreateDevice(attr);
    CallbackStore store(store_, Clock::now() + Milliseconds(connect_ms));
    context_ = std::make_shared<gloo::rendezvous::Context>(options.rank, options.world);
    context_->setTimeout(Milliseconds(connect_ms));
    context_->connectFullMesh(store, device);
    size_t share = (kBucketFloats + (size_t)world - 1) / (size_t)world;
    stage_.resize(share * (size_t)world);
    for (int peer = 0; peer < world; peer++)
        stages_.push_back(context_->createUnboundBuffer(stage_.data() + share * (size_t)peer,
                                                        share * sizeof(float)));
}

void Gloo::start()
{
    deadline_ = Clock::now() + Milliseconds(timeout_ms_);
}

// Whom a rank that failed before us was waiting for; -1: it said nothing, so it is the one.
int Gloo::blamed_by(int peer)
{
    char text[16] = {0};
    size_t len = 0;
    int blamed = -1;
    npo_err err = store_->get(store_->self, ("failed." + std::to_string(peer)).c_str(),
                              kBlameTimeoutMs, text, sizeof text - 1, &len);
    if (err || sscanf(text, "%d", &blamed) != 1 || blamed < 0 || blamed >= world)
        return -1;
    return blamed;
}

// Says whom this rank waited for, then follows what the others said to the first one that failed.
void Gloo::blame(int peer, bool timed_out, const char *what)
{
    std::string own = std::to_string(peer);
    npo_err err = store_->set(store_->self, ("failed." + std::to_string(rank)).c_str(), own.data(),
                              own.size());
    int first = peer;
    for (int i = 0; err == NPO_OK && i < world; i++) {
        int next = blamed_by(first);
        if (next < 0 || next == rank)
            break;
        first = next;
    }
    std::string text = rank_name(first) +
                       (timed_out ? " did not answer within " + std::to_string(timeout_ms_) + " ms"
                                  : " failed or left");
    if (first != peer)
        text += " (told by " + rank_name(peer) + ")";
    fail(timed_out ? NPO_E_TIMEOUT : NPO_E_PEER, text + ": " + what);
}

// A connection that broke between two waits says so here.
void Gloo::post(Buffer &buffer, Way way, int peer, uint64_t slot, size_t offset, size_t bytes)
{
    std::string what;
    try {
        if (way == Way::kSend)
            buffer.send(peer, slot, offset, bytes);
        else
            buffer.recv(peer, slot, offset, bytes);
        return;
    } catch (const std::exception &e) {
        what = e.what();
    }
    blame(peer, false, what.c_str());
}

void Gloo::wait(Buffer &buffer, Way way, int peer)
{
    bool done = false;
    std::string what;
    try {
        // 0 would mean for ever
        auto left = std::max(std::chrono::duration_cast<Milliseconds>(deadline_ - Clock::now()),
                             Milliseconds(1));
        done = way == Way::kSend ? buffer.waitSend(nullptr, left) : buffer.waitRecv(nullptr, left);
    } catch (const std::exception &e) {
        what = e.what();
    }
    if (!done)
        blame(peer, Clock::now() >= deadline_, what.c_str());
}

// Each rank owns one share of the bucket: it receives that share from all others, adds up in rank
// order, and hands the sum out.
void Gloo::exchange_bucket(float *x, size_t first, size_t n)
{
    const int me = rank;
    const size_t share = (n + (size_t)world - 1) / (size_t)world;
    const size_t stride = stage_.size() / (size_t)world;
    auto begin = [&](int owner) { return std::min(n, share * (size_t)owner); };
    auto count = [&](int owner) { return begin(owner + 1) - begin(owner); };
    auto bytes_at = [&](int owner) { return (first + begin(owner)) * sizeof(float); };
    const uint64_t gather = slot_++, scatter = slot_++;
    const size_t mine = count(me);

    for (int p = 0; p < world; p++) {
        if (p == me)
            continue;
        if (mine)
            post(*stages_[p], Way::kReceive, p, gather, 0, mine * sizeof(float));
        if (count(p))
            post(*sends_[p], Way::kSend, p, gather, bytes_at(p), count(p) * sizeof(float));
    }
    float *sum = x + first + begin(me);
    float *own = stage_.data() + stride * (size_t)me;
    std::copy(sum, sum + mine, own);
    for (int p = 0; p < world; p++) {
        if (p != me && mine)
            wait(*stages_[p], Way::kReceive, p);
        const float *part = stage_.data() + stride * (size_t)p;
        for (size_t i = 0; i < mine; i++)
            sum[i] = p == 0 ? part[i] : sum[i] + part[i];
    }
    // The shares sent away are overwritten next, so they must have left.
    for (int p = 0; p < world; p++)
        if (p != me && count(p))
            wait(*sends_[p], Way::kSend, p);

    for (int p = 0; p < world; p++) {
        if (p == me)
            continue;
        if (count(p))
            post(*receives_[p], Way::kReceive, p, scatter, bytes_at(p), count(p) * sizeof(float));
        if (mine)
            post(*sends_[p], Way::kSend, p, scatter, bytes_at(me), mine * sizeof(float));
    }
    for (int p = 0; p < world; p++) {
        if (p != me && count(p))
            wait(*receives_[p], Way::kReceive, p);
        if (p != me && mine)
            wait(*sends_[p], Way::kSend, p);
    }
}

void Gloo::allreduce_sum(float *x, size_t n)
{
    start();
    sends_.clear();
    receives_.clear();
    for (int p = 0; p < world; p++) {
        sends_.push_back(context_->createUnboundBuffer(x, n * sizeof(float)));
        receives_.push_back(context_->createUnboundBuffer(x, n * sizeof(float)));
    }
    for (size_t first = 0; first < n; first += kBucketFloats)
        exchange_bucket(x, first, std::min(kBucketFloats, n - first));
    sends_.clear();
    receives_.clear();
}

void Gloo::close()
{
    sends_.clear();
    receives_.clear();
    if (context_)
        context_->closeConnections();
}

npo_err Gloo::fail_operation(const char *operation, const Failure &failure, npo_error *error)
{
    close(); // so that the others learn of it now and not at their time limit
    return npo_error_set(error, failure.code, "%s of rank %d of %d: %s", operation, rank, world,
                         failure.text.c_str());
}

Gloo *from_base(npo_comm *comm)
{
    return static_cast<Gloo *>(comm);
}

// Runs an operation and turns whatever it throws into an error.
template <typename Body>
npo_err guarded(npo_comm *comm, const char *operation, npo_error *error, Body body)
{
    Gloo *gloo = from_base(comm);
    try {
        try {
            body(*gloo);
            return NPO_OK;
        } catch (const Failure &failure) {
            return gloo->fail_operation(operation, failure, error);
        } catch (const std::bad_alloc &) {
            return gloo->fail_operation(operation, Failure{NPO_E_NOMEM, "out of memory"}, error);
        } catch (const std::exception &e) {
            return gloo->fail_operation(operation, Failure{NPO_E_PEER, e.what()}, error);
        }
    } catch (...) {
        return npo_error_set(error, NPO_E_PEER, "%s: failed, and closing failed too", operation);
    }
}

npo_err gloo_allreduce_sum(npo_comm *comm, float *x, size_t n, npo_error *error)
{
    return guarded(comm, "allreduce", error, [&](Gloo &gloo) { gloo.allreduce_sum(x, n); });
}

npo_err gloo_barrier(npo_comm *comm, npo_error *error)
{
    // Rank 0 owns the one value: it waits for all, and all wait for it.
    return guarded(comm, "barrier", error, [&](Gloo &gloo) {
        float value = 0;
        gloo.allreduce_sum(&value, 1);
    });
}

void gloo_free(npo_comm *comm)
{
    Gloo *gloo = from_base(comm);
    try {
        gloo->close();
        delete gloo;
    } catch (...) {
        // nothing is left to do for a connection that does not close
    }
}

const npo_comm_ops gloo_ops = {gloo_allreduce_sum, gloo_barrier, gloo_free};

// gloo crashes on an address that this machine cannot listen on.
bool can_listen(const char *host)
{
    addrinfo hints = {}, *list = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    bool bound = false;
    if (getaddrinfo(host, nullptr, &hints, &list) != 0)
        return false;
    for (const addrinfo *at = list; at && !bound; at = at->ai_next) {
        int fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
        bound = fd >= 0 && bind(fd, at->ai_addr, at->ai_addrlen) == 0;
        if (fd >= 0)
            close(fd);
    }
    freeaddrinfo(list);
    return bound;
}

npo_err check_options(const npo_comm_gloo_options *options, npo_error *error)
{
    if (options->world < 1 || options->world > NPO_GANG_MAX)
        return npo_error_set(error, NPO_E_RANGE, "gang of %d ranks, expected 1 to %d",
                             options->world, NPO_GANG_MAX);
    if (options->rank < 0 || options->rank >= options->world)
        return npo_error_set(error, NPO_E_RANGE, "rank %d, expected 0 to %d", options->rank,
                             options->world - 1);
    if (options->timeout_ms < 0 || options->connect_timeout_ms < 0)
        return npo_error_set(error, NPO_E_RANGE, "gang: a time limit is negative");
    // gloo would say only that it failed, and leak the list of interfaces.
    if (options->world > 1 && options->interface && if_nametoindex(options->interface) == 0)
        return npo_error_set(error, NPO_E_NOT_FOUND, "gang: no network interface '%s'",
                             options->interface);
    if (options->world > 1 && !options->interface && options->host && !can_listen(options->host))
        return npo_error_set(error, NPO_E_NOT_FOUND,
                             "gang: '%s' is not an address that this machine can listen on",
                             options->host);
    return NPO_OK;
}

} // namespace

extern "C" npo_err npo_comm_new_gloo(const npo_comm_gloo_options *options, npo_comm **ret_comm,
                                     npo_error *error)
{
    npo_err err = check_options(options, error);
    if (err)
        return err;
    if (options->world == 1)
        return npo_comm_new_self(ret_comm);
    try {
        Gloo *gloo = new Gloo(*options);
        gloo->ops = &gloo_ops;
        *ret_comm = gloo;
        return NPO_OK;
    } catch (const Failure &failure) {
        return npo_error_set(error, failure.code, "rendezvous of rank %d of %d: %s", options->rank,
                             options->world, failure.text.c_str());
    } catch (const std::bad_alloc &) {
        return npo_error_set(error, NPO_E_NOMEM, "rendezvous of rank %d: out of memory",
                             options->rank);
    } catch (const std::exception &e) {
        return npo_error_set(error, NPO_E_UNREACHABLE, "rendezvous of rank %d of %d: %s",
                             options->rank, options->world, e.what());
    } catch (...) {
        return npo_error_set(error, NPO_E_LIBRARY, "rendezvous of rank %d failed", options->rank);
    }
}
