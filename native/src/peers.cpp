#include "peers.h"

#include <utility>

#include "error.h"

namespace replay {

bool Peers::has_asked(uint32_t rank, uint64_t sequence) const {
    const Peer &peer = peers_[rank];
    if (peer.finished_after && sequence >= *peer.finished_after) return peer.updates_received >= peer.last.updates;
    const auto found = peer.requests.find(sequence);
    return found != peer.requests.end() && peer.updates_received >= found->second.updates;
}

bool Peers::all_have_asked(uint64_t sequence) const {
    for (uint32_t rank = 0; rank < peers_.size(); ++rank)
        if (rank != rank_ && !has_asked(rank, sequence)) return false;
    return true;
}

const Request &Peers::request(uint32_t rank, uint64_t sequence) const {
    const auto found = peers_[rank].requests.find(sequence);
    return found == peers_[rank].requests.end() ? peers_[rank].last : found->second;
}

bool Peers::others(const std::function<bool(const Peer &)> &condition) const {
    for (uint32_t rank = 0; rank < peers_.size(); ++rank)
        if (rank != rank_ && !condition(peers_[rank])) return false;
    return true;
}

void Peers::take_request(uint32_t rank, uint64_t sequence, Request &&request, uint64_t served) {
    const auto &finished = peers_[rank].finished_after;
    if (finished && sequence >= *finished)
        fail(RB_PEER, "rank ", rank, " asked for draw ", sequence, " after the ", *finished, " of which it had spoken");
    if (sequence < served || !peers_[rank].requests.emplace(sequence, std::move(request)).second)
        fail(RB_PEER, "rank ", rank, " asked for draw ", sequence, " twice");
}

void Peers::take_update(uint32_t rank, uint64_t number, Update &&update) {
    Peer &peer = peers_[rank];
    if (number <= peer.updates_received || !peer.updates.emplace(number, std::move(update)).second)
        fail(RB_PEER, "rank ", rank, " sent update ", number, " twice");
    while (peer.updates.count(peer.updates_received + 1)) ++peer.updates_received;  // they may overtake each other
}

void Peers::take_finished(uint32_t rank, uint64_t requests, Request &&last, uint64_t served) {
    const auto &made = peers_[rank].requests;
    if (peers_[rank].finished_after || requests < served || (!made.empty() && made.rbegin()->first >= requests))
        fail(RB_PEER, "rank ", rank, " has finished after ", requests, " draws, and spoke of more, or finished twice");
    peers_[rank].last = std::move(last);
    peers_[rank].finished_after = requests;
}

}  // namespace replay
