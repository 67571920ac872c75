/* A replay memory that spans the ranks of a training job.
 *
 * Each rank owns a shard of fixed capacity. Records are rows of named fields; `rb_add` offers them to the shard of the
 * calling rank, `rb_request` asks for a draw from the shards of all ranks, `rb_receive` hands it over in memory that
 * was allocated once. Between the two the draw is made and carried by a thread of the buffer.
 *
 * One call after another
 *     Per step: rb_receive for each draw requested in the step before, rb_add, rb_request for each draw of the next.
 *     rb_request is collective: every rank makes the same sequence of requests, of sizes of its own (0 is a size).
 *     Draw k sees on every rank what was stored when that rank made its request k, whatever the timing; so equal seeds
 *     and equal numbers of ranks give equal draws to the bit.
 *
 * Threads
 *     All calls on one buffer come from one thread at a time, but rb_release and those on a copy. With several ranks,
 * or for draws of more than RB_INLINE_BYTES, the buffer has one thread of its own; it sleeps in poll(2) while there is
 * nothing to do.
 *
 * Errors
 *     Every function that returns int returns RB_OK or one of the codes below, and then `rb_error` has the message:
 *     what was expected, what was got. Unless a function says otherwise the buffer is as it was before the call. A
 *     lost peer is final: every later call on that buffer returns RB_PEER again, but rb_get_stats and rb_destroy.
 *
 * Memory
 *     What a caller passes in is read during the call and not kept. What a function hands out says who frees it.
 *
 * Structs begin with their size, set by the caller with sizeof: a library that is newer or older than the caller
 * refuses a size that it does not know.
 */
#ifndef REPLAY_H
#define REPLAY_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define RB_API __attribute__((visibility("default")))
#else
#define RB_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define RB_INLINE_BYTES 2097152 /* a draw of at most this size on one rank is made in rb_request itself */
#define RB_MOST_PENDING 4096    /* draws requested and not received */

enum {
    RB_OK = 0,
    RB_INVALID = 1, /* the caller's mistake: an argument, a label, a file of another buffer, a call out of turn */
    RB_SYSTEM = 2,  /* the system refused memory, a file or the network */
    RB_PEER = 3,    /* a rank is dead, does not answer in time, or spoke out of turn; named in the message */
    RB_INTERNAL = 4 /* a fault of this library */
};

/* A column of the memory. Rows are copied as they are: dtype and shape are the caller's business. */
typedef struct {
    size_t size;
    const char *name;   /* for messages and for the check of a saved file; copied */
    uint64_t row_bytes; /* at least 1 */
} rb_field;

/* A number that a policy needs. */
typedef struct {
    size_t size;
    const char *name;
    double value;
} rb_policy_option;

/* A policy has a name: the insertion policy decides which records stay, the sampling policy which are drawn.
   rb_insertion_policy and rb_sampling_policy list the names; docs/replay_buffer.md says what each does and which
   options it needs. */
typedef struct {
    size_t size;
    uint64_t capacity; /* records of this rank's shard, at least 1, below 2^26 */
    uint32_t num_classes;
    const char *insertion, *sampling;       /* names of policies; copied */
    const rb_policy_option *policy_options; /* just those that the two policies need, each once; copied */
    uint32_t num_policy_options;
    uint64_t seed;        /* the same on every rank */
    uint32_t rank, ranks; /* at most 4096 ranks */
    const rb_field *fields;
    uint32_t num_fields;
    uint32_t label_field;   /* the field that names the class: one int64 per row, in [0, num_classes) */
    double timeout_seconds; /* how long a call waits for other ranks, above 0 */
    uint8_t token[16];      /* the same on every rank and known to nobody else: messages without it are dropped */
    uint32_t local;         /* 1: all ranks are on this host, and the buffer listens there alone; else 0 */
} rb_options;

/* A draw. The memory belongs to the buffer and stays as it is until `rb_release(lease)`, also after rb_close; the draw
   that is requested next gets other memory meanwhile. */
typedef struct {
    size_t size;
    uint64_t count;             /* min(n, records on all ranks) */
    uint64_t sequence;          /* number of the draw, from 0 */
    const uint64_t *ids;        /* [count] names of the records, for rb_update */
    const float *weights;       /* [count] probability under `uniform` over that under `sampling`, for a draw of one */
    const void *const *columns; /* [num_fields], each [count][row_bytes], aligned to 64 bytes */
    void *lease;                /* where all this memory begins, */
    uint64_t lease_bytes;       /* and its length, for those who register it with a device */
} rb_records;

typedef struct {
    size_t size;
    uint64_t stored;            /* records in this rank's shard */
    uint64_t stored_everywhere; /* records on all ranks in the newest draw that was made */
    uint64_t offered;           /* records offered to this shard */
    uint64_t shard_bytes;       /* at full capacity */
    uint64_t staging_bytes;     /* memory of draws */
    uint64_t requests;          /* draws requested; those not received yet are `pending` */
    uint64_t pending;
    double wait_seconds;       /* time that the caller's thread has spent in making draws and waiting for them */
    double thread_cpu_seconds; /* CPU time of the buffer's own thread */
    uint64_t messages_sent, messages_received;
    uint64_t bytes_sent, bytes_received; /* contents of the messages, without what the transport adds */
    uint64_t picks;                      /* records picked in draws that this rank computed, of its own and of others */
    uint64_t messages_refused;           /* dropped, because they came from no rank of this job: see `token` */
    int32_t transport;                   /* 1 if the library was built with UCX, else 0: then it serves one rank */
} rb_stats;

typedef struct rb_buffer rb_buffer;
typedef struct rb_copy rb_copy;

/* The message of the last failure in the calling thread; valid until its next call. Never NULL. */
RB_API const char *rb_error(void);

/* The name of a policy, by its place from 0 in alphabetical order; NULL past the last. Valid for ever. */
RB_API const char *rb_insertion_policy(uint32_t place);
RB_API const char *rb_sampling_policy(uint32_t place);

/* A new, empty shard. Several ranks: rb_address and rb_connect have to follow before the first rb_request.
   Cost: address space for capacity rows, of which the system gives memory as they fill.
   RB_INVALID for options that make no sense; RB_SYSTEM without memory or network. */
RB_API int rb_create(const rb_options *options, rb_buffer **buffer);

/* Where the other ranks find this one: bytes for rb_connect, to be carried to them by the caller. Owned by the buffer.
   RB_INVALID with one rank. */
RB_API int rb_address(rb_buffer *buffer, const void **address, size_t *length);

/* Meet the others: `addresses` and `lengths` of all ranks, in order of rank. Does not wait for them. */
RB_API int rb_connect(rb_buffer *buffer, const void *const *addresses, const size_t *lengths);

/* Offer n records, `columns` [num_fields] each [n][row_bytes] in the order of the options.
   Waits until the draws requested before are made: they see the memory without these records.
   Cost: a decision per record, a copy per record that is stored. RB_INVALID for a label out of range. */
RB_API int rb_add(rb_buffer *buffer, uint64_t n, const void *const *columns);

/* Replace one field of records by name, wherever they are stored: `ids` [n] from a draw, `rows` [n][row_bytes]. Draws
   requested from now on see it; a record that is no longer stored is passed over; with several updates of one record
   between two draws that of the highest rank, and of these the latest, stays. Collective order as with rb_request is
   not needed. RB_INVALID for the label field, and for an id whose rank does not exist. */
RB_API int rb_update(rb_buffer *buffer, uint32_t field, uint64_t n, const uint64_t *ids, const void *rows);

/* Ask for a draw of min(n, stored everywhere) different records. Returns at once; see above for what it sees. With
   several ranks an error after the others were told is final, as a lost peer is. RB_INVALID for one more than
   RB_MOST_PENDING draws that were not received. */
RB_API int rb_request(rb_buffer *buffer, uint64_t n);

/* The oldest draw that was not received. Waits until it is complete, at most timeout_seconds.
   RB_INVALID if none was requested; RB_PEER names the ranks that are missing. Free with rb_release. */
RB_API int rb_receive(rb_buffer *buffer, rb_records *records);

/* Give the memory of a draw back; NULL does nothing. The one call that may come from any thread at any time. */
RB_API void rb_release(void *lease);

RB_API int rb_get_stats(rb_buffer *buffer, rb_stats *stats);

/* A copy of this rank's shard, its generators and its pending draws as they are now, to be written at leisure.
   Waits for pending draws as rb_receive does. Cost: the bytes of the stored records, copied. Free with rb_free_copy. */
RB_API int rb_take_copy(rb_buffer *buffer, rb_copy **copy);

/* Write a copy to a file for rb_load, whole or not at all (first to path.part). May be called in any thread, also while
   the buffer is used or gone; one call at a time for one copy. */
RB_API int rb_write_copy(const rb_copy *copy, const char *path);

/* NULL does nothing. */
RB_API void rb_free_copy(rb_copy *copy);

/* Go on from saved shards: `paths` of all ranks that saved, in order of rank. With as many as there are ranks now, each
   reads its own and goes on as if nothing had happened, pending draws included. Otherwise the records of all files are
   distributed again, each to one rank; pending draws and the names of records are lost, and `pending_sizes` [at most
   max_pending] gets the sizes of the draws that were pending on rank 0, to be requested again; `num_pending` their
   number, 0 if they were kept.
   With several ranks it has to be loaded before its first draw.
   RB_INVALID for a file that is damaged, of another buffer, or holds more than the capacity; RB_SYSTEM if it cannot be
   read. The buffer is then as it was. */
RB_API int rb_load(rb_buffer *buffer, const char *const *paths, uint32_t num_paths, uint64_t *pending_sizes,
                   uint32_t max_pending, uint32_t *num_pending);

/* Read saved shards as rb_load would, and change nothing. RB_INVALID and RB_SYSTEM as there. */
RB_API int rb_check(rb_buffer *buffer, const char *const *paths, uint32_t num_paths);

/* Leave, collectively: serves the draws of the others until every rank has called this. Idempotent. Waits as long as
   the others are alive; one that is silent for timeout_seconds is RB_PEER. Afterwards only rb_get_stats, rb_release,
   rb_close and rb_destroy are allowed. */
RB_API int rb_close(rb_buffer *buffer);

/* Free everything but draws that are not released. Without rb_close before it the other ranks lose this one. NULL does
   nothing. */
RB_API void rb_destroy(rb_buffer *buffer);

#ifdef __cplusplus
}
#endif
#endif
