/* Layers of a perceptron one after the other, and their gradients, in float, on one thread: one call where torch takes
 * dozens. `native_tape.py` compiles this and says what each function
 * is for. Vectors are the compiler's own, so that any processor will do. */

#include <stdint.h>
#include <string.h>

/* Numbers in a vector, as wide as the processor's own: of wider ones the compiler makes several times as many
 * instructions. */
#if defined(__AVX512F__)
#define LANES 16
#define TALL 8 /* rows that are computed together, two vectors of each: their sums stay in registers */
#elif defined(__AVX__)
#define LANES 8
#define TALL 6
#else
#define LANES 4
#define TALL 6
#endif
#define HALVES 2
#define WIDE (HALVES * LANES) /* columns of a panel */
#define DEEP 256              /* terms of a panel: it stays in the first cache */
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));

static inline floats load(const float *x) {
    floats found;
    memcpy(&found, x, sizeof found);
    return found;
}
static inline void store(float *x, floats value) { memcpy(x, &value, sizeof value); }
static inline floats all(float x) { return x - (floats){0}; }

/* The sum over i < n of a term, given for a vector of them and for one: of four vectors at a time, so that none waits
 * for the other. */
#define SUM(n, vector, single)                                               \
    ({                                                                       \
        floats found_[4] = {0};                                              \
        long from_ = 0;                                                      \
        for (; from_ + 4 * LANES <= (n); from_ += 4 * LANES)                 \
            for (int part_ = 0; part_ < 4; part_++) {                        \
                long i = from_ + part_ * LANES;                              \
                found_[part_] += (vector);                                   \
            }                                                                \
        floats all_ = (found_[0] + found_[1]) + (found_[2] + found_[3]);     \
        float sum_ = 0;                                                      \
        for (int lane_ = 0; lane_ < LANES; lane_++) sum_ += all_[lane_];     \
        for (long i = from_; i < (n); i++) sum_ += (single);                 \
        sum_;                                                                \
    })

/* LANES columns of as many rows of x, `apart` from each other, as rows, `wide` apart. */
#if LANES == 16
static void turned(const float *x, long apart, float *out, long wide) {
    floats a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = load(x + i * apart);
#define MIX(to, from, near, first, second)                                                                       \
    for (int i = 0; i < 16; i++)                                                                                  \
        if (!(i & near)) {                                                                                        \
            to[i] = first(from[i], from[i + near]);                                                               \
            to[i + near] = second(from[i], from[i + near]);                                                       \
        }
#define A1(p, q) __builtin_shufflevector(p, q, 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30)
#define B1(p, q) __builtin_shufflevector(p, q, 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31)
#define A2(p, q) __builtin_shufflevector(p, q, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define B2(p, q) __builtin_shufflevector(p, q, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define A4(p, q) __builtin_shufflevector(p, q, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27)
#define B4(p, q) __builtin_shufflevector(p, q, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31)
#define A8(p, q) __builtin_shufflevector(p, q, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)
#define B8(p, q) __builtin_shufflevector(p, q, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31)
    MIX(b, a, 1, A1, B1)
    MIX(a, b, 2, A2, B2)
    MIX(b, a, 4, A4, B4)
    MIX(a, b, 8, A8, B8)
    for (int i = 0; i < 16; i++) store(out + i * wide, a[i]);
}
#else
static void turned(const float *x, long apart, float *out, long wide) {
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) out[j * wide + i] = x[i * apart + j];
}
#endif

/* A panel of `deep` rows of WIDE: columns of b, whose rows and columns are so far apart; zeros where it has none. */
static void packed(const float *b, long row, long column, long deep, long columns, float *out) {
    if (column == 1) {
        for (long k = 0; k < deep; k++, b += row, out += WIDE) {
            if (columns == WIDE) {
                for (long j = 0; j < WIDE; j += LANES) store(out + j, load(b + j));
            } else {
                memcpy(out, b, columns * sizeof(float));
                memset(out + columns, 0, (WIDE - columns) * sizeof(float));
            }
        }
        return;
    }
    for (long half = 0; half < WIDE; half += LANES) {
        long k = 0;
        if (row == 1 && columns >= half + LANES)
            for (; k + LANES <= deep; k += LANES) turned(b + half * column + k, column, out + k * WIDE + half, WIDE);
        for (; k < deep; k++)
            for (long j = half; j < half + LANES; j++)
                out[k * WIDE + j] = j < columns ? b[k * row + j * column] : 0.0f;
    }
}

/* c (+)= a b for so many rows of a, and a panel b of which so many halves count. */
static inline __attribute__((always_inline)) void block(const int rows, const int halves, const float *a, long row,
                                                        long column, const float *b, long deep, float *c, long apart,
                                                        int add) {
    floats found[8][HALVES];
    for (int i = 0; i < rows; i++)
        for (int h = 0; h < halves; h++) found[i][h] = (floats){0};
    for (long k = 0; k < deep; k++, b += WIDE, a += column) {
        floats of[HALVES];
        for (int h = 0; h < halves; h++) of[h] = load(b + h * LANES);
        for (int i = 0; i < rows; i++) {
            floats factor = all(a[i * row]);
            for (int h = 0; h < halves; h++) found[i][h] += factor * of[h];
        }
    }
    for (int i = 0; i < rows; i++)
        for (int h = 0; h < halves; h++) {
            float *to = c + i * apart + h * LANES;
            store(to, add ? load(to) + found[i][h] : found[i][h]);
        }
}

static void blocks(long rows, int halves, const float *a, long row, long column, const float *b, long deep, float *c,
                   long apart, int add) {
#define CASE(n)                                                                 \
    case n:                                                                     \
        if (halves == 1) block(n, 1, a, row, column, b, deep, c, apart, add);   \
        else block(n, HALVES, a, row, column, b, deep, c, apart, add);          \
        break;
    switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) CASE(7) CASE(8) }
#undef CASE
}

enum { NOTHING, RELU, TANH };

/* What is done with a product while it is in the cache: a bias (columns,) is added, and what is below the floor raised
 * to it; and it is multiplied by the slope of an activation, by what that gave (rows or more, width), row by row or of
 * the rows that are chosen, and added to the sums of columns. */
struct then {
    const float *bias;
    float floor;
    const float *after;
    long width, active;
    const long *chosen;
    float *sums;
};

static inline floats chosen(ints which, floats x, floats other) {
    return (floats)(((ints)x & which) | ((ints)other & ~which));
}

/* Of LANES columns, and of one. */
#define FINISHED(type, read, write, over, raised)                                     \
    {                                                                                 \
        type bias = {0}, total = {0};                                                 \
        if (then->bias) bias = read(then->bias + column + i);                         \
        for (long r = 0; r < rows; r++) {                                             \
            type value = read(c + r * apart + i) + bias;                              \
            /* As torch's ReLU, it keeps what is no number. */                        \
            if (then->bias) value = raised;                                           \
            if (then->active) {                                                       \
                long from = then->chosen ? then->chosen[row + r] : row + r;           \
                type after = read(then->after + from * then->width + column + i);     \
                value = then->active == RELU ? over : value * (1 - after * after);    \
            }                                                                         \
            write(c + r * apart + i, value);                                          \
            total += value;                                                           \
        }                                                                             \
        if (then->sums) write(then->sums + column + i, read(then->sums + column + i) + total); \
    }
#define READ(x) (*(x))
#define WRITE(x, value) (*(x) = (value))

/* Of rows and columns that begin there. */
static __attribute__((noinline)) void finish(const struct then *then, float *c, long apart, long row, long rows,
                                             long column, long columns) {
    long i = 0;
    for (; i + LANES <= columns; i += LANES)
        FINISHED(floats, load, store, chosen(after <= 0, all(0), value),
                 chosen(value < then->floor, all(then->floor), value))
    for (; i < columns; i++)
        FINISHED(float, READ, WRITE, (after <= 0 ? 0.0f : value), (value < then->floor ? then->floor : value))
}

/* c (m, n) (+)= a (m, k) b (k, n), each with its rows and columns so far apart; c's columns lie together. What is done
 * then, or nothing. */
static void exact(long m, long n, long k, const float *a, long a_row, long a_column, const float *b, long b_row,
                  long b_column, float *c, long c_row, int add, const struct then *then) {
    float panel[DEEP * WIDE] __attribute__((aligned(64))), edge[TALL * WIDE] __attribute__((aligned(64)));
    for (long from = 0; from < k; from += DEEP) {
        long deep = k - from < DEEP ? k - from : DEEP;
        for (long j = 0; j < n; j += WIDE) {
            long columns = n - j < WIDE ? n - j : WIDE;
            packed(b + from * b_row + j * b_column, b_row, b_column, deep, columns, panel);
            for (long i = 0; i < m; i += TALL) {
                long rows = m - i < TALL ? m - i : TALL;
                const float *begin = a + i * a_row + from * a_column;
                float *to = c + i * c_row + j;
                int more = add || from;
                if (columns == WIDE) {
                    blocks(rows, HALVES, begin, a_row, a_column, panel, deep, to, c_row, more);
                } else {
                    blocks(rows, columns > LANES ? HALVES : 1, begin, a_row, a_column, panel, deep, edge, WIDE, 0);
                    for (long r = 0; r < rows; r++)
                        for (long s = 0; s < columns; s++)
                            to[r * c_row + s] = edge[r * WIDE + s] + (more ? to[r * c_row + s] : 0.0f);
                }
                if (then && from + deep == k) finish(then, to, c_row, i, rows, j, columns);
            }
        }
    }
}

/* Units that multiply bf16, as `native_tape.py` calls them. */
enum { NONE, VECTORS, TILES };

#if defined(__AVX512BF16__)
#include <immintrin.h>
#define PAIRS (2 * LANES)        /* terms of a tile: 16 pairs */
#define TILE (LANES * PAIRS)
enum { STEPS = 8, ACROSS = 16 }; /* tiles of a panel of b: 256 by 256 */

/* Half of the last bit of bf16 is added: cut off after it, numbers are the nearest, halves away from zero. */
static inline __m512i raised(__m512 x) { return _mm512_add_epi32((__m512i)x, _mm512_set1_epi32(0x8000)); }

/* The same; what is no number stays none. */
static inline __m512i nearest(__m512 x) {
    return _mm512_mask_mov_epi32(_mm512_set1_epi32(0x7fc00000), _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), raised(x));
}

/* Two vectors in bf16, a tile for each of the parts: the first of one, the first of the other, and so on. One part is
 * the nearest; three are the nearest, the nearest to what that leaves, and the rest, which is one of bf16. What is no
 * number may look like one in the first two: the rest of it is none. */
static inline __attribute__((always_inline)) void split(const int parts, __m512 x, __m512 y, uint16_t *out) {
    const __m512i high = _mm512_set1_epi32(0xffff0000);
    for (int p = 0; p < parts; p++, out += TILE) {
        __m512i one = parts == 1 ? nearest(x) : p < 2 ? raised(x) : (__m512i)x;
        __m512i other = parts == 1 ? nearest(y) : p < 2 ? raised(y) : (__m512i)y;
        other = _mm512_and_si512(other, high);
        _mm512_storeu_si512(out, _mm512_or_si512(_mm512_srli_epi32(one, 16), other));
        x -= (__m512)_mm512_and_si512(one, high);
        y -= (__m512)other;
    }
}

/* 16 rows of PAIRS terms of x in bf16, a tile for each of the parts, terms k and 16 + k side by side; rows and terms so
 * far apart; zeros where it has none. It takes two calls, `turn` 0 and 1, between which `room` (TILE,) is kept. */
static __attribute__((noinline)) void halved(const int parts, int turn, const float *x, long row, long term, long rows,
                                             long terms, float *room, uint16_t *out) {
    int plain = rows >= LANES && terms >= PAIRS && term == 1;
    if (!plain && turn == 0) {
        if (rows >= LANES && terms >= PAIRS && row == 1) {
            turned(x, term, room, PAIRS);
            turned(x + LANES * term, term, room + LANES, PAIRS);
        } else {
            for (long i = 0; i < LANES; i++)
                for (long k = 0; k < PAIRS; k++)
                    room[i * PAIRS + k] = i < rows && k < terms ? x[i * row + k * term] : 0.0f;
        }
        return;
    }
    long from = plain ? turn * LANES / 2 : 0, to = plain ? from + LANES / 2 : LANES;
    if (!plain) x = room, row = PAIRS;
    for (long i = from; i < to; i++) {
        const float *begin = x + i * row;
        if (parts == 1) split(1, _mm512_loadu_ps(begin), _mm512_loadu_ps(begin + LANES), out + i * PAIRS);
        else split(3, _mm512_loadu_ps(begin), _mm512_loadu_ps(begin + LANES), out + i * PAIRS);
    }
}

/* The same of 16 columns of y as a right factor takes them: 16 rows of pairs of terms. `side` (parts, TILE) is kept as
 * well. */
static __attribute__((noinline)) void paired(const int parts, int turn, const float *y, long term, long column,
                                             long terms, long columns, float *room, uint16_t *side, uint16_t *out) {
    if (column == 1 && terms >= PAIRS && columns >= LANES) {
        for (long k = turn * LANES / 2; k < (turn + 1) * LANES / 2; k++) {
            const float *begin = y + k * term;
            if (parts == 1) split(1, _mm512_loadu_ps(begin), _mm512_loadu_ps(begin + LANES * term), out + k * PAIRS);
            else split(3, _mm512_loadu_ps(begin), _mm512_loadu_ps(begin + LANES * term), out + k * PAIRS);
        }
    } else if (turn == 0) {
        halved(parts, 0, y, column, term, columns, terms, room, side);
        halved(parts, 1, y, column, term, columns, terms, room, side);
    } else {
        for (int p = 0; p < parts; p++)
            turned((const float *)(side + p * TILE), LANES, (float *)(out + p * TILE), LANES);
    }
}

#if defined(__AMX_BF16__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>

/* Some compilers believe that the next instructions read less memory than they do. */
#define WRITTEN __asm__ volatile("" ::: "memory")

/* As `exact`, by tiles of bf16 with sums in float: of factors rounded to it, or each the sum of three, which is all of
 * a float, and of their products those that a float's sum can tell. Tiles are multiplied by a unit of their own;
 * meanwhile the product before is finished, and the next tiles are made: in quarters, since the processor does at once
 * only what lies near. */
static inline __attribute__((always_inline)) void tiled(const int parts, long m, long n, long k, const float *a,
                                                        long a_row, long a_column, const float *b, long b_row,
                                                        long b_column, float *c, long c_row, int add,
                                                        const struct then *then) {
    static __thread uint16_t left[2][2 * STEPS * 3 * TILE] __attribute__((aligned(64)));
    static __thread uint16_t right[ACROSS * STEPS * 3 * TILE] __attribute__((aligned(64)));
    float edge[LANES * LANES] __attribute__((aligned(64)));
    float room[2][TILE] __attribute__((aligned(64))); /* for what is half made, of b and of a */
    uint16_t side[3 * TILE] __attribute__((aligned(64)));
    struct {
        float *c;
        long row, rows, column, columns;
    } made = {0}; /* a product that is to be finished */
    for (long from = 0; from < k; from += STEPS * PAIRS) {
        long deep = k - from < STEPS * PAIRS ? k - from : STEPS * PAIRS, steps = (deep + PAIRS - 1) / PAIRS;
        long size = steps * parts * TILE; /* of 16 rows of a, or columns of b */
        int more = add || from;
        for (long j0 = 0; j0 < n; j0 += ACROSS * LANES) {
            long wide = n - j0 < ACROSS * LANES ? n - j0 : ACROSS * LANES;
/* A quarter of making two tiles across, and two down. */
#define COLUMNS(j, s, q)                                                                                           \
    if ((j) + (q) / 2 * LANES < wide) {                                                                            \
        long to_ = (j) + (q) / 2 * LANES;                                                                          \
        paired(parts, (q) % 2, b + (from + (s) * PAIRS) * b_row + (j0 + to_) * b_column, b_row, b_column,           \
               deep - (s) * PAIRS, wide - to_, room[0], side, right + to_ / LANES * size + (s) * parts * TILE);     \
    }
#define ROWS(i, s, q)                                                                                              \
    if ((i) + (q) / 2 * LANES < m) {                                                                               \
        long to_ = (i) + (q) / 2 * LANES;                                                                          \
        halved(parts, (q) % 2, a + to_ * a_row + (from + (s) * PAIRS) * a_column, a_row, a_column, m - to_,         \
               deep - (s) * PAIRS, room[1],                                                                        \
               left[(i) / (2 * LANES) % 2] + (q) / 2 * size + (s) * parts * TILE);                                 \
    }
            for (long s = 0; s < steps; s++)
                for (int q = 0; q < 4; q++) {
                    COLUMNS(0, s, q)
                    ROWS(0, s, q)
                }
            for (long i = 0; i < m; i += 2 * LANES) {
                int tall = m - i > LANES;
                for (long j = 0; j < wide; j += 2 * LANES) {
                    int broad = wide - j > LANES, last = wide - j <= 2 * LANES;
                    const uint16_t *rows = left[i / (2 * LANES) % 2], *columns = right + j / LANES * size;
                    float *to = c + i * c_row + j0 + j;
                    int through = m - i >= 2 * LANES && wide - j >= 2 * LANES; /* tiles are c's own */
                    WRITTEN;
                    if (through && more) {
                        _tile_loadd(0, to, c_row * sizeof(float));
                        _tile_loadd(1, to + LANES, c_row * sizeof(float));
                        _tile_loadd(2, to + LANES * c_row, c_row * sizeof(float));
                        _tile_loadd(3, to + LANES * c_row + LANES, c_row * sizeof(float));
                    } else {
                        _tile_zero(0);
                        _tile_zero(1);
                        _tile_zero(2);
                        _tile_zero(3);
                    }
#define LEFT(part)                                             \
    _tile_loadd(4, rows + (part) * TILE, 64);                  \
    if (tall) _tile_loadd(5, rows + size + (part) * TILE, 64);
#define RIGHT(part)                                                \
    _tile_loadd(6, columns + (part) * TILE, 64);                   \
    if (broad) _tile_loadd(7, columns + size + (part) * TILE, 64);
#define MULTIPLIED                                \
    _tile_dpbf16ps(0, 4, 6);                      \
    if (broad) _tile_dpbf16ps(1, 4, 7);           \
    if (tall) _tile_dpbf16ps(2, 5, 6);            \
    if (tall && broad) _tile_dpbf16ps(3, 5, 7);
#define MEANWHILE(q)                              \
    if (!i) COLUMNS(j + 2 * LANES, s, q)          \
    if (last) ROWS(i + 2 * LANES, s, q)
#define FINISH                                                                        \
    if (made.c) {                                                                     \
        finish(then, made.c, c_row, made.row, made.rows, made.column, made.columns);  \
        made.c = 0;                                                                   \
    }
                    for (long s = 0; s < steps; s++, rows += parts * TILE, columns += parts * TILE) {
                        LEFT(0)
                        if (parts == 3) {
                            RIGHT(2) MULTIPLIED MEANWHILE(0)
                            RIGHT(1) MULTIPLIED MEANWHILE(1)
                            LEFT(1) MULTIPLIED MEANWHILE(2)
                            RIGHT(0) MULTIPLIED MEANWHILE(3)
                            LEFT(0) MULTIPLIED FINISH
                            LEFT(2) MULTIPLIED
                        } else {
                            RIGHT(0) MULTIPLIED
                            for (int q = 0; q < 4; q++) { MEANWHILE(q) }
                            FINISH
                        }
                    }
                    if (through) {
                        _tile_stored(0, to, c_row * sizeof(float));
                        _tile_stored(1, to + LANES, c_row * sizeof(float));
                        _tile_stored(2, to + LANES * c_row, c_row * sizeof(float));
                        _tile_stored(3, to + LANES * c_row + LANES, c_row * sizeof(float));
                        WRITTEN;
                    }
                    for (int t = 0; t < 4 && !through; t++) {
                        int down = t / 2 * LANES, over = t % 2 * LANES;
                        if (t == 0) _tile_stored(0, edge, 64);
                        if (t == 1) _tile_stored(1, edge, 64);
                        if (t == 2) _tile_stored(2, edge, 64);
                        if (t == 3) _tile_stored(3, edge, 64);
                        WRITTEN;
                        for (long r = 0; r < LANES && r < m - i - down; r++)
                            for (long q = 0; q < LANES && q < wide - j - over; q++) {
                                float *one = to + (down + r) * c_row + over + q;
                                *one = edge[r * LANES + q] + (more ? *one : 0.0f);
                            }
                    }
                    if (then && from + deep == k) {
                        made.c = to, made.row = i, made.column = j0 + j;
                        made.rows = m - i < 2 * LANES ? m - i : 2 * LANES;
                        made.columns = wide - j < 2 * LANES ? wide - j : 2 * LANES;
                    }
                }
            }
        }
    }
    FINISH
}

/* Of so many parts: 1 or 3. */
static void by_tiles(long parts, long m, long n, long k, const float *a, long a_row, long a_column, const float *b,
                     long b_row, long b_column, float *c, long c_row, int add, const struct then *then) {
    struct {
        uint8_t palette, start, none[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    WRITTEN;
    _tile_loadconfig(&shape);
    if (parts == 3) tiled(3, m, n, k, a, a_row, a_column, b, b_row, b_column, c, c_row, add, then);
    else tiled(1, m, n, k, a, a_row, a_column, b, b_row, b_column, c, c_row, add, then);
    _tile_release();
}
/* Whether the system lets this process have tiles. */
static int tiles(void) {
    return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
}
#else
static int tiles(void) { return 0; }
#define by_tiles(parts, ...) ((void)(parts), by_vectors(__VA_ARGS__))
#endif

/* c (+)= a b for half a tile's rows of a, and so many vectors of columns of b, each `size` after the other. */
static inline __attribute__((always_inline)) void pairs(const int halves, const uint16_t *a, const uint16_t *b,
                                                        long size, long steps, float *c, long apart, int add) {
    enum { ROWS = LANES / 2 };
    __m512 found[ROWS][HALVES];
    for (int i = 0; i < ROWS; i++)
        for (int h = 0; h < halves; h++)
            found[i][h] = add ? _mm512_loadu_ps(c + i * apart + h * LANES) : _mm512_setzero_ps();
    for (long s = 0; s < steps; s++, a += TILE, b += TILE)
        for (long p = 0; p < PAIRS; p += 2) {
            __m512i of[HALVES];
            for (int h = 0; h < halves; h++) of[h] = _mm512_load_si512(b + h * size + p * LANES);
            for (int i = 0; i < ROWS; i++) {
                int32_t pair;
                memcpy(&pair, a + i * PAIRS + p, sizeof pair);
                __m512i factor = _mm512_set1_epi32(pair);
                for (int h = 0; h < halves; h++)
                    found[i][h] = _mm512_dpbf16_ps(found[i][h], (__m512bh)factor, (__m512bh)of[h]);
            }
        }
    for (int i = 0; i < ROWS; i++)
        for (int h = 0; h < halves; h++) _mm512_storeu_ps(c + i * apart + h * LANES, found[i][h]);
}

/* As `exact`, of factors rounded to bf16, with sums in float. */
static void by_vectors(long m, long n, long k, const float *a, long a_row, long a_column, const float *b, long b_row,
                       long b_column, float *c, long c_row, int add, const struct then *then) {
    static __thread uint16_t right[ACROSS * STEPS * TILE] __attribute__((aligned(64)));
    uint16_t left[STEPS * TILE] __attribute__((aligned(64))), side[TILE] __attribute__((aligned(64)));
    float room[TILE] __attribute__((aligned(64))), edge[LANES / 2 * WIDE] __attribute__((aligned(64)));
    for (long from = 0; from < k; from += STEPS * PAIRS) {
        long deep = k - from < STEPS * PAIRS ? k - from : STEPS * PAIRS, steps = (deep + PAIRS - 1) / PAIRS;
        long size = steps * TILE; /* of 16 columns of b */
        int more = add || from;
        for (long j0 = 0; j0 < n; j0 += ACROSS * LANES) {
            long wide = n - j0 < ACROSS * LANES ? n - j0 : ACROSS * LANES;
            for (long j = 0; j < wide; j += LANES)
                for (long s = 0; s < steps; s++)
                    for (int turn = 0; turn < 2; turn++)
                        paired(1, turn, b + (from + s * PAIRS) * b_row + (j0 + j) * b_column, b_row, b_column,
                               deep - s * PAIRS, wide - j, room, side, right + j / LANES * size + s * TILE);
            for (long i = 0; i < m; i += LANES) {
                for (long s = 0; s < steps; s++)
                    for (int turn = 0; turn < 2; turn++)
                        halved(1, turn, a + i * a_row + (from + s * PAIRS) * a_column, a_row, a_column, m - i,
                               deep - s * PAIRS, room, left + s * TILE);
                for (long j = 0; j < wide; j += WIDE)
                    for (long down = i; down < i + LANES && down < m; down += LANES / 2) {
                        long rows = m - down < LANES / 2 ? m - down : LANES / 2;
                        long columns = wide - j < WIDE ? wide - j : WIDE;
                        const uint16_t *begin = left + (down - i) * PAIRS, *panel = right + j / LANES * size;
                        float *to = c + down * c_row + j0 + j;
                        if (rows == LANES / 2 && columns == WIDE) {
                            pairs(HALVES, begin, panel, size, steps, to, c_row, more);
                        } else {
                            if (columns > LANES) pairs(HALVES, begin, panel, size, steps, edge, WIDE, 0);
                            else pairs(1, begin, panel, size, steps, edge, WIDE, 0);
                            for (long r = 0; r < rows; r++)
                                for (long q = 0; q < columns; q++)
                                    to[r * c_row + q] = edge[r * WIDE + q] + (more ? to[r * c_row + q] : 0.0f);
                        }
                        if (then && from + deep == k) finish(then, to, c_row, down, rows, j0 + j, columns);
                    }
            }
        }
    }
}

static int unit = NONE;

/* Which there are; to be asked before anything is multiplied by them. */
int units(void) { return unit = tiles() ? TILES : VECTORS; }

/* Of so many parts: by vectors 1, by tiles 1 or 3. */
static void by_units(long parts, long m, long n, long k, const float *a, long a_row, long a_column, const float *b,
                     long b_row, long b_column, float *c, long c_row, int add, const struct then *then) {
    if (unit == TILES) by_tiles(parts, m, n, k, a, a_row, a_column, b, b_row, b_column, c, c_row, add, then);
    else by_vectors(m, n, k, a, a_row, a_column, b, b_row, b_column, c, c_row, add, then);
}
#else
int units(void) { return NONE; }
#define by_units(parts, ...) exact(__VA_ARGS__)
#endif

/* Of shorter sums, or fewer products of numbers, these cost more than they save. */
#define SHORT 64
#define FEW (1L << 20)

static void product(long parts, long m, long n, long k, const float *a, long a_row, long a_column, const float *b,
                    long b_row, long b_column, float *c, long c_row, int add, const struct then *then) {
    if (parts && k >= SHORT && m >= LANES && n >= LANES && m * n * k >= FEW)
        by_units(parts, m, n, k, a, a_row, a_column, b, b_row, b_column, c, c_row, add, then);
    else exact(m, n, k, a, a_row, a_column, b, b_row, b_column, c, c_row, add, then);
}

/* e^x as a power of two times 1 + what is returned, the Taylor polynomial of what the rest has beyond 1; of -87 and 88
 * where x is beyond. */
static inline floats parted(floats x, floats *power) {
    x = chosen(x < -87, all(-87), chosen(x > 88, all(88), x));
    /* Added and taken away, this rounds to a whole number. */
    floats whole = (x * 1.44269504f + 12582912.0f) - 12582912.0f;
    floats rest = (x - whole * 0.693145752f) - whole * 1.42860677e-6f;
    floats found = all(1 / 5040.0f);
    found = found * rest + 1 / 720.0f;
    found = found * rest + 1 / 120.0f;
    found = found * rest + 1 / 24.0f;
    found = found * rest + 1 / 6.0f;
    found = found * rest + 0.5f;
    *power = (floats)((__builtin_convertvector(whole, ints) + 127) << 23);
    return (found * rest) * rest + rest;
}

static inline floats exponential(floats x) {
    floats power, found = parted(x, &power);
    return power * (1 + found);
}

/* log(1 + x) to a few units in the last place, for x from 0 to 1: twice the series of artanh(x / (2 + x)). */
static inline floats log_beyond(floats x) {
    floats part = x / (2 + x), square = part * part, found = all(1 / 15.0f);
    found = found * square + 1 / 13.0f;
    found = found * square + 1 / 11.0f;
    found = found * square + 1 / 9.0f;
    found = found * square + 1 / 7.0f;
    found = found * square + 1 / 5.0f;
    found = found * square + 1 / 3.0f;
    return 2 * (part + part * square * found);
}

static inline floats away(floats x) { return chosen(x < 0, -x, x); }

/* tanh x: with y = -2 |x| it is (1 - e^y) / (1 + e^y). */
static inline floats bent(floats x) {
    floats power, found = parted(-2 * away(x), &power), less = power * found + (power - 1), tangent = less / (less + 2);
    return chosen(x < 0, tangent, 0 - tangent);
}

/* tanh of so many numbers. */
static void tanhs(float *x, long count) {
    for (; count >= LANES; count -= LANES, x += LANES) store(x, bent(load(x)));
    float rest[LANES] = {0};
    memcpy(rest, x, count * sizeof(float));
    store(rest, bent(load(rest)));
    memcpy(x, rest, count * sizeof(float));
}

/* What `native_tape.py` calls _Layer. */
struct layer {
    long in, out;
    const float *weight; /* (in, out), so far apart */
    long weight_in, weight_out;
    const float *bias;
    float *weight_grad; /* the same, or none */
    long grad_in, grad_out;
    float *bias_grad;                /* or none */
    float *before, *mean, *inverse;  /* what is normalised (rows, out), and by what (rows,); or none */
    float *after, *outer;            /* what comes out (rows, out), and room for the gradient there */
    long active;                     /* what follows: one of those below */
    long parts;                      /* of bf16, that factors are split into: 1 rounds them; 0: none are */
};

/* The layer but for its normalisation and tanh: (rows, out) of x (rows, in). */
static void multiplied(const struct layer *of, long rows, const float *x, long apart, float *out) {
    struct then then = {.bias = of->bias, .floor = of->active == RELU && !of->before ? 0.0f : -1.0f / 0.0f};
    if (of->out > 1 || of->weight_in != 1) {
        product(of->parts, rows, of->out, of->in, x, apart, 1, of->weight, of->weight_in, of->weight_out, out, of->out,
                0, &then);
        return;
    }
    for (long r = 0; r < rows; r++, x += apart) {
        const float *weight = of->weight;
        out[r] = SUM(of->in, load(x + i) * load(weight + i), x[i] * weight[i]);
    }
    finish(&then, out, 1, 0, rows, 0, 1);
}

/* Rows of what a layer gives before its activation, normalised. */
static void normalised(const struct layer *of, long rows, float epsilon) {
    long width = of->out;
    float floor = of->active == RELU ? 0.0f : -1.0f / 0.0f;
    for (long r = 0; r < rows; r++) {
        const float *row = of->before + r * width;
        float *to = of->after + r * width, mean = SUM(width, load(row + i), row[i]) / width;
        floats level = all(mean);
        float squares =
            SUM(width, (load(row + i) - level) * (load(row + i) - level), (row[i] - mean) * (row[i] - mean));
        float inverse = 1 / __builtin_sqrtf(squares / width + epsilon);
        of->mean[r] = mean;
        of->inverse[r] = inverse;
        for (long i = 0; i < width; i++) {
            float value = (row[i] - mean) * inverse;
            to[i] = value < floor ? floor : value;
        }
    }
}

void forward(const struct layer *layers, long count, long rows, const float *x, long apart, float epsilon) {
    for (const struct layer *of = layers; of < layers + count; of++) {
        multiplied(of, rows, x, apart, of->before ? of->before : of->after);
        if (of->before) normalised(of, rows, epsilon);
        if (of->active == TANH) tanhs(of->after, rows * of->out);
        x = of->after;
        apart = of->out;
    }
}

/* What is done with the gradient of what comes out of a layer, of all rows, or of those that are chosen: it is that
 * before the activation. */
static struct then bending(const struct layer *of, const long *chosen) {
    return (struct then){.after = of->after, .width = of->out, .active = of->active, .chosen = chosen};
}

/* The same; and where the bias is not normalised away, the sums are its gradient. */
static struct then learning(const struct layer *of) {
    struct then then = bending(of, 0);
    if (!of->before) then.sums = of->bias_grad;
    return then;
}

/* From that before the activation of a layer to that before its normalisation, in its place. */
static void inward(const struct layer *of, long rows, const long *chosen, float *gradient) {
    if (!of->before) return;
    long width = of->out;
    for (long r = 0; r < rows; r++, gradient += width) {
        long from = chosen ? chosen[r] : r;
        const float *before = of->before + from * width;
        float mean = of->mean[from], inverse = of->inverse[from];
        floats middle = all(mean);
        float sum = SUM(width, load(gradient + i), gradient[i]);
        float along =
            SUM(width, load(gradient + i) * (load(before + i) - middle), gradient[i] * (before[i] - mean));
        float level = sum / width, slope = along * inverse * inverse / width;
        for (long i = 0; i < width; i++) gradient[i] = inverse * (gradient[i] - level - slope * (before[i] - mean));
    }
}

/* The gradient of what goes into a layer, of its columns from `first` on, from that before its activation. */
static void through(const struct layer *of, long rows, const float *gradient, long first, float *out,
                    const struct then *then) {
    long width = of->in - first;
    const float *weight = of->weight + first * of->weight_in;
    if (of->out > 1 || of->weight_in != 1) {
        product(of->parts, rows, width, of->out, gradient, of->out, 1, weight, of->weight_out, of->weight_in, out,
                width, 0, then);
        return;
    }
    for (long r = 0; r < rows; r++, out += width) {
        for (long i = 0; i < width; i++) out[i] = gradient[r] * weight[i];
        if (then) finish(then, out, width, r, 1, 0, width);
    }
}

/* Add to the gradients of weights, and of biases that are normalised after. */
static void learned(const struct layer *of, long rows, const float *x, long apart, const float *gradient) {
    long width = of->out;
    if (of->weight_grad && width == 1 && of->grad_in == 1) {
        for (long r = 0; r < rows; r++)
            for (long i = 0; i < of->in; i++) of->weight_grad[i] += gradient[r] * x[r * apart + i];
    } else if (of->weight_grad && of->grad_out == 1) {
        product(of->parts, of->in, width, rows, x, 1, apart, gradient, width, 1, of->weight_grad, of->grad_in, 1, 0);
    } else if (of->weight_grad) {
        product(of->parts, width, of->in, rows, gradient, 1, width, x, apart, 1, of->weight_grad, of->grad_out, 1, 0);
    }
    if (of->bias_grad && of->before)
        for (long r = 0; r < rows; r++)
            for (long i = 0; i < width; i++) of->bias_grad[i] += gradient[r * width + i];
}

void backward(const struct layer *layers, long count, long rows, const float *x, long apart, float *gradient,
              float *inner) {
    struct then then = learning(layers + count - 1);
    finish(&then, gradient, then.width, 0, rows, 0, then.width);
    for (long index = count - 1; index >= 0; index--) {
        const struct layer *of = layers + index, *below = of - 1;
        inward(of, rows, 0, gradient);
        learned(of, rows, index ? below->after : x, index ? below->out : apart, gradient);
        float *next = index ? below->outer : inner;
        if (index) then = learning(below);
        if (next) through(of, rows, gradient, 0, next, index ? &then : 0);
        gradient = next;
    }
}

static void climb(const struct layer *layers, long count, long rows, const float *gradient, long first, long *chosen,
                  float *asked, float *inner, float *total) {
    long wanted = 0, width = layers->in - first;
    for (long r = 0; r < rows; r++)
        if (gradient[r] != 0) {
            chosen[wanted] = r;
            asked[wanted++] = gradient[r];
        }
    struct then then = bending(layers + count - 1, chosen);
    finish(&then, asked, then.width, 0, wanted, 0, then.width);
    for (long index = count - 1; index >= 0; index--) {
        const struct layer *of = layers + index;
        inward(of, wanted, chosen, asked);
        float *next = index ? of[-1].outer : inner;
        if (index) then = bending(of - 1, chosen);
        through(of, wanted, asked, index ? 0 : first, next, index ? &then : 0);
        asked = next;
    }
    for (long r = 0; r < wanted; r++)
        for (long i = 0; i < width; i++) total[chosen[r] * width + i] += inner[r * width + i];
}

/* Several stacks of layers of one shape, with one output each, that are given the same (rows, left + right), kept in x:
 * out (stacks, rows). */
void several(const struct layer *const *stacks, long many, long count, long rows, const float *left, long left_width,
             const float *right, long right_width, float epsilon, float *x, float *out) {
    long width = left_width + right_width;
    for (long r = 0; r < rows; r++) {
        memcpy(x + r * width, left + r * left_width, left_width * sizeof(float));
        memcpy(x + r * width + left_width, right + r * right_width, right_width * sizeof(float));
    }
    for (long s = 0; s < many; s++, out += rows) {
        forward(stacks[s], count, rows, x, width, epsilon);
        memcpy(out, stacks[s][count - 1].after, rows * sizeof(float));
    }
}

/* `backward` of each, from the gradient (stacks, rows) of what they gave. */
void several_backward(const struct layer *const *stacks, long many, long count, long rows, const float *x,
                      const float *gradient) {
    for (long s = 0; s < many; s++, gradient += rows) {
        const struct layer *last = stacks[s] + count - 1;
        memcpy(last->outer, gradient, rows * sizeof(float));
        backward(stacks[s], count, rows, x, stacks[s]->in, last->outer, 0);
    }
}

/* Add the gradient of the last columns of x, from `first` on, to total (rows, them), from that of what they gave
 * (stacks, rows): of each for the rows alone that have one. */
void several_climb(const struct layer *const *stacks, long many, long count, long rows, const float *gradient,
                   long first, long *chosen, float *asked, float *inner, float *total) {
    for (long s = 0; s < many; s++, gradient += rows)
        climb(stacks[s], count, rows, gradient, first, chosen, asked, inner, total);
}

/* `distributions.squashed` of outputs (rows, 2 size), means and what tanh brings into the range of log_std, and noise:
 * actions (rows, size), their log density (rows,), and what `unsquash` needs, (rows, size) each: the tanh, and the
 * noise times the deviation. */
void squash(long rows, long size, const float *outputs, const float *noise, float low, float high, float *action,
            float *log_prob, float *slack, float *moved) {
    /* Room that is written again: means in `action`, and what each brings to log_prob in `moved`. */
    for (long r = 0; r < rows; r++)
        for (long i = 0; i < size; i++) {
            action[r * size + i] = outputs[2 * r * size + i];
            slack[r * size + i] = outputs[(2 * r + 1) * size + i];
        }
    float half = 0.5f * (high - low);
    long row = 0, column = 0;
    for (long begin = 0; begin < rows * size; begin += LANES) {
        long n = rows * size - begin < LANES ? rows * size - begin : LANES;
        float room[4][LANES] = {{0}};
        memcpy(room[0], action + begin, n * sizeof(float));
        memcpy(room[1], slack + begin, n * sizeof(float));
        memcpy(room[2], noise + begin, n * sizeof(float));
        floats mean = load(room[0]), bend = bent(load(room[1])), drawn = load(room[2]);
        floats log_std = low + half * (bend + 1), step = exponential(log_std) * drawn, latent = mean + step;
        /* x + softplus(-2x) is the same on both sides of 0. */
        floats both = away(latent) + log_beyond(exponential(-2 * away(latent)));
        floats each = 2 * both - log_std - 0.5f * drawn * drawn;
        store(room[0], bent(latent));
        store(room[1], bend);
        store(room[2], step);
        store(room[3], each);
        memcpy(action + begin, room[0], n * sizeof(float));
        memcpy(slack + begin, room[1], n * sizeof(float));
        memcpy(moved + begin, room[2], n * sizeof(float));
        for (long i = 0; i < n; i++) {
            if (column == 0) log_prob[row] = -size * 2.30523289f; /* log(2 pi) / 2 + 2 log 2 */
            log_prob[row] += room[3][i];
            if (++column == size) column = 0, row++;
        }
    }
}

/* The gradient of the outputs, from those of the actions (rows, size) and of their log density (rows,). */
void unsquash(long rows, long size, const float *action, const float *slack, const float *moved, float half,
              const float *of_action, const float *of_log_prob, float *gradient) {
    for (long r = 0; r < rows; r++)
        for (long i = 0; i < size; i++) {
            long at = r * size + i;
            float mean = of_action[at] + action[at] * (2 * of_log_prob[r] - action[at] * of_action[at]);
            gradient[2 * r * size + i] = mean;
            gradient[(2 * r + 1) * size + i] = (mean * moved[at] - of_log_prob[r]) * half * (1 - slack[at] * slack[at]);
        }
}
