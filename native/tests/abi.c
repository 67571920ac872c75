/* A program in C that knows nothing but replay.h: the life of one rank, then two ranks as processes that carry each
   other's address through pipes, of which one is killed at last. */
#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../include/replay.h"

enum { CLASSES = 10, CAPACITY = 100, BATCH = 16, SMALL = 300, LARGE = 30000, STEPS = 50 };

/* Ends the process, so that a failing child needs no care. */
#define CHECK(condition)                                                                                         \
    do {                                                                                                         \
        if (!(condition)) {                                                                                      \
            fprintf(stderr, "%s:%d: expected %s; last error: %s\n", __FILE__, __LINE__, #condition, rb_error()); \
            _exit(1);                                                                                            \
        }                                                                                                        \
    } while (0)

static rb_buffer *create(uint32_t rank, uint32_t ranks, uint64_t row, double timeout) {
    rb_field fields[2];
    rb_options options;
    rb_buffer *buffer = NULL;
    memset(fields, 0, sizeof fields);
    memset(&options, 0, sizeof options);
    fields[0].size = fields[1].size = sizeof fields[0];
    fields[0].name = "y";
    fields[0].row_bytes = sizeof(int64_t);
    fields[1].name = "image";
    fields[1].row_bytes = row;
    options.size = sizeof options;
    options.capacity = CAPACITY;
    options.num_classes = CLASSES;
    options.insertion = "class_balanced";
    options.sampling = "class_balanced";
    options.seed = 7;
    options.rank = rank;
    options.ranks = ranks;
    options.fields = fields;
    options.num_fields = 2;
    options.label_field = 0;
    options.timeout_seconds = timeout;
    CHECK(rb_create(&options, &buffer) == RB_OK);
    return buffer;
}

/* Records of which every byte follows from rank and label. */
static int offer(rb_buffer *buffer, uint64_t row, uint32_t rank, uint64_t step) {
    int64_t labels[BATCH];
    static unsigned char images[BATCH * LARGE];
    const void *columns[2];
    for (int i = 0; i < BATCH; ++i) {
        labels[i] = (int64_t)((step + (uint64_t)i) % CLASSES);
        memset(images + (uint64_t)i * row, (int)(rank * CLASSES) + (int)labels[i], row);
    }
    columns[0] = labels;
    columns[1] = images;
    return rb_add(buffer, BATCH, columns);
}

static void add(rb_buffer *buffer, uint64_t row, uint32_t rank, uint64_t step) {
    CHECK(offer(buffer, row, rank, step) == RB_OK);
}

/* A draw is received and looked at; the mask of ranks whose records are in it. */
static unsigned receive(rb_buffer *buffer, uint64_t row, uint64_t count, uint64_t sequence) {
    rb_records records;
    unsigned ranks = 0;
    memset(&records, 0, sizeof records);
    records.size = sizeof records;
    CHECK(rb_receive(buffer, &records) == RB_OK);
    CHECK(records.count == count);
    CHECK(records.sequence == sequence);
    const int64_t *labels = records.columns[0];
    const unsigned char *images = records.columns[1];
    for (uint64_t i = 0; i < count; ++i) {
        const unsigned first = images[i * row];
        CHECK((int64_t)(first % CLASSES) == labels[i]);
        for (uint64_t j = 1; j < row; ++j) CHECK(images[i * row + j] == first);
        CHECK(records.weights[i] > 0);
        ranks |= 1u << first / CLASSES;
    }
    rb_release(records.lease);
    return ranks;
}

static rb_stats statistics(rb_buffer *buffer) {
    rb_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.size = sizeof stats;
    CHECK(rb_get_stats(buffer, &stats) == RB_OK);
    return stats;
}

/* Whether there is a transport for more. */
static int one_rank(void) {
    char path[64];
    const char *paths[1];
    uint64_t sizes[4];
    uint32_t pending = 9;
    rb_copy *copy;
    rb_buffer *buffer = create(0, 1, SMALL, 30), *again = create(0, 1, SMALL, 30);
    snprintf(path, sizeof path, "/tmp/replay-abi-%ld", (long)getpid());
    paths[0] = path;
    for (uint64_t step = 0; step < STEPS; ++step) {
        if (step > 0) CHECK(receive(buffer, SMALL, 20, step - 1) == 1);
        add(buffer, SMALL, 0, step);
        if (step == 0) add(buffer, SMALL, 0, step);
        CHECK(rb_request(buffer, 20) == RB_OK);
    }
    CHECK(statistics(buffer).stored == CAPACITY);
    CHECK(statistics(buffer).offered == BATCH * (STEPS + 1));
    CHECK(rb_take_copy(buffer, &copy) == RB_OK);
    CHECK(rb_write_copy(copy, path) == RB_OK);
    rb_free_copy(copy);
    CHECK(rb_load(again, paths, 1, sizes, 4, &pending) == RB_OK);
    remove(path);
    CHECK(pending == 0);
    CHECK(statistics(again).pending == 1);
    CHECK(receive(again, SMALL, 20, STEPS - 1) == 1);
    CHECK(rb_receive(again, NULL) == RB_INVALID);
    CHECK(strlen(rb_error()) > 0);
    CHECK(rb_close(buffer) == RB_OK);
    const int transport = statistics(buffer).transport;
    rb_destroy(buffer);
    rb_destroy(again);
    return transport;
}

static void write_all(int end, const void *data, size_t bytes) { CHECK(write(end, data, bytes) == (ssize_t)bytes); }

static void read_all(int end, void *data, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        const ssize_t part = read(end, (char *)data + done, bytes - done);
        CHECK(part > 0);
        done += (size_t)part;
    }
}

struct ends {
    int to_other, from_other;
};

static rb_buffer *join(uint32_t rank, uint64_t row, double timeout, struct ends ends) {
    const void *addresses[2];
    size_t lengths[2];
    rb_buffer *buffer = create(rank, 2, row, timeout);
    CHECK(rb_address(buffer, &addresses[rank], &lengths[rank]) == RB_OK);
    CHECK(lengths[rank] < 4096); /* a pipe holds as much */
    write_all(ends.to_other, &lengths[rank], sizeof lengths[rank]);
    write_all(ends.to_other, addresses[rank], lengths[rank]);
    read_all(ends.from_other, &lengths[1 - rank], sizeof lengths[0]);
    void *other = malloc(lengths[1 - rank]);
    CHECK(other != NULL);
    read_all(ends.from_other, other, lengths[1 - rank]);
    addresses[1 - rank] = other;
    CHECK(rb_connect(buffer, addresses, lengths) == RB_OK);
    free(other);
    return buffer;
}

/* Both do their steps, one more of them than the other. */
static void live(uint32_t rank, uint64_t row, struct ends ends) {
    rb_buffer *buffer = join(rank, row, 30, ends);
    unsigned seen = 0;
    const uint64_t steps = rank == 0 ? STEPS : 2 * STEPS;
    for (uint64_t step = 0; step < steps; ++step) {
        if (step > 0) seen |= receive(buffer, row, 10, step - 1);
        add(buffer, row, rank, step);
        CHECK(rb_request(buffer, 10) == RB_OK);
    }
    seen |= receive(buffer, row, 10, steps - 1);
    CHECK(seen == 3);
    CHECK(rb_close(buffer) == RB_OK);
    CHECK(statistics(buffer).messages_sent > 0);
    rb_destroy(buffer);
}

/* Rank 1 is killed in the middle; rank 0 learns of it in time, and says who it was. */
static void die(uint32_t rank, uint64_t row, struct ends ends) {
    rb_buffer *buffer = join(rank, row, 3, ends);
    int status = RB_OK;
    for (uint64_t step = 0; status == RB_OK; ++step) {
        if (rank == 1 && step == 5) kill(getpid(), SIGKILL);
        CHECK(step < 10);
        const time_t before = time(NULL);
        rb_records records;
        memset(&records, 0, sizeof records);
        records.size = sizeof records;
        status = offer(buffer, row, rank, step); /* whichever call comes first */
        if (status == RB_OK) status = rb_request(buffer, 10);
        if (status == RB_OK) status = rb_receive(buffer, &records);
        if (status == RB_OK) rb_release(records.lease);
        CHECK(difftime(time(NULL), before) < 10);
    }
    CHECK(status == RB_PEER);
    CHECK(strstr(rb_error(), "rank 1") != NULL);
    CHECK(rb_close(buffer) == RB_PEER);
    rb_destroy(buffer);
}

static void two_ranks(void (*run)(uint32_t, uint64_t, struct ends), uint64_t row, int killed) {
    int there[2], back[2];
    CHECK(pipe(there) == 0 && pipe(back) == 0);
    fflush(NULL);
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        run(1, row, (struct ends){back[1], there[0]});
        exit(0);
    }
    run(0, row, (struct ends){there[1], back[0]});
    int status = 1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(killed ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0);
    for (int i = 0; i < 2; ++i) close(there[i]), close(back[i]);
}

int main(void) {
    const int transport = one_rank();
    puts("one rank                                                     ok");
    if (!transport) {
        puts("two ranks                                                    SKIPPED: built without UCX");
        return 0;
    }
    two_ranks(live, SMALL, 0);
    two_ranks(live, LARGE, 0); /* in memory that both may read */
    puts("two ranks as processes                                       ok");
    two_ranks(die, SMALL, 1);
    puts("two ranks, of which one is killed                            ok");
    return 0;
}
