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

/* c (m, n) (+)= a (m, k) b (k, n), each with its rows and columns so far apart; c's columns lie together. */
static void exact(long m, long n, long k, const float *a, long a_row, long a_column, const float *b, long b_row,
                  long b_column, float *c, long c_row, int add) {
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
            }
        }
    }
}

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#define PAIRS (2 * LANES) /* terms of a tile: 16 pairs */

/* Whether the system lets this process have tiles. */
int rounds(void) { return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0; }

static inline __m512i in_half(const float *first, const float *second) {
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(second), _mm512_loadu_ps(first));
}

/* 16 rows of PAIRS terms of x in bf16, end to end; rows and terms so far apart; zeros where it has none. */
static void halved(const float *x, long row, long term, long rows, long terms, uint16_t *out) {
    float whole[LANES * PAIRS] __attribute__((aligned(64)));
    if (rows < LANES || terms < PAIRS || (row != 1 && term != 1)) {
        for (long i = 0; i < LANES; i++)
            for (long k = 0; k < PAIRS; k++)
                whole[i * PAIRS + k] = i < rows && k < terms ? x[i * row + k * term] : 0.0f;
        x = whole, row = PAIRS;
    } else if (term != 1) {
        turned(x, term, whole, PAIRS);
        turned(x + LANES * term, term, whole + LANES, PAIRS);
        x = whole, row = PAIRS;
    }
    for (long i = 0; i < LANES; i++, out += PAIRS) _mm512_storeu_si512(out, in_half(x + i * row, x + i * row + LANES));
}

/* The same of 16 columns of y as a right factor takes them: 16 rows of pairs of terms. */
static void paired(const float *y, long term, long column, long terms, long columns, uint16_t *out) {
    if (column == 1 && terms >= PAIRS && columns >= LANES) {
        const __m512i woven = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                               21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        for (long k = 0; k < PAIRS; k += 2, out += PAIRS)
            _mm512_storeu_si512(out, _mm512_permutexvar_epi16(woven, in_half(y + k * term, y + (k + 1) * term)));
        return;
    }
    uint16_t side[LANES * PAIRS] __attribute__((aligned(64)));
    halved(y, column, term, columns, terms, side);
    turned((const float *)side, LANES, (float *)out, LANES);
}

/* As `exact`, of factors rounded to bf16, with sums in float. */
static void rounded(long m, long n, long k, const float *a, long a_row, long a_column, const float *b, long b_row,
                    long b_column, float *c, long c_row, int add) {
    enum { TILE = LANES * PAIRS, MOST = 16 };
    static __thread uint16_t left[MOST * TILE] __attribute__((aligned(64)));
    static __thread uint16_t right[MOST * MOST * 2 * TILE] __attribute__((aligned(64)));
    struct {
        uint8_t palette, start, none[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shape = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    /* Some compilers believe that the next instructions read less memory than they do. */
#define WRITTEN __asm__ volatile("" ::: "memory")
    WRITTEN;
    _tile_loadconfig(&shape);
    float edge[LANES * LANES] __attribute__((aligned(64)));
    for (long from = 0; from < k; from += MOST * PAIRS) {
        long deep = k - from < MOST * PAIRS ? k - from : MOST * PAIRS, steps = (deep + PAIRS - 1) / PAIRS;
        for (long j0 = 0; j0 < n; j0 += 2 * MOST * LANES) {
            long wide = n - j0 < 2 * MOST * LANES ? n - j0 : 2 * MOST * LANES;
            for (long j = 0; j < wide; j += LANES)
                for (long s = 0; s < steps; s++)
                    paired(b + (from + s * PAIRS) * b_row + (j0 + j) * b_column, b_row, b_column, deep - s * PAIRS, wide - j,
                           right + (j / LANES * steps + s) * TILE);
            for (long i = 0; i < m; i += LANES) {
                long rows = m - i < LANES ? m - i : LANES;
                for (long s = 0; s < steps; s++)
                    halved(a + i * a_row + (from + s * PAIRS) * a_column, a_row, a_column, rows, deep - s * PAIRS,
                           left + s * TILE);
                WRITTEN;
                for (long j = 0; j < wide; j += 4 * LANES) {
                    _tile_zero(0);
                    _tile_zero(1);
                    _tile_zero(2);
                    _tile_zero(3);
                    const uint16_t *of = right + j / LANES * steps * TILE;
                    long tiles = (wide - j + LANES - 1) / LANES;
                    for (long s = 0; s < steps; s++) {
                        _tile_loadd(4, left + s * TILE, 64);
                        _tile_loadd(5, of + s * TILE, 64);
                        _tile_dpbf16ps(0, 4, 5);
                        if (tiles < 2) continue;
                        _tile_loadd(6, of + (steps + s) * TILE, 64);
                        _tile_dpbf16ps(1, 4, 6);
                        if (tiles < 3) continue;
                        _tile_loadd(7, of + (2 * steps + s) * TILE, 64);
                        _tile_dpbf16ps(2, 4, 7);
                        if (tiles < 4) continue;
                        _tile_loadd(5, of + (3 * steps + s) * TILE, 64);
                        _tile_dpbf16ps(3, 4, 5);
                    }
                    for (long t = 0; t < 4 && t < tiles; t++) {
                        if (t == 0) _tile_stored(0, edge, 64);
                        if (t == 1) _tile_stored(1, edge, 64);
                        if (t == 2) _tile_stored(2, edge, 64);
                        if (t == 3) _tile_stored(3, edge, 64);
                        WRITTEN;
                        float *to = c + i * c_row + j0 + j + t * LANES;
                        long columns = wide - j - t * LANES;
                        for (long r = 0; r < rows; r++, to += c_row) {
                            if (columns >= LANES) {
                                floats found = load(edge + r * LANES);
                                store(to, add || from ? load(to) + found : found);
                                continue;
                            }
                            for (long q = 0; q < columns; q++)
                                to[q] = edge[r * LANES + q] + (add || from ? to[q] : 0.0f);
                        }
                    }
                }
            }
        }
    }
    _tile_release();
}
#else
int rounds(void) { return 0; }
#define rounded exact
#endif

/* Below so many sums, rounding costs more than it saves. */
#define FEW 32768

static void product(int half, long m, long n, long k, const float *a, long a_row, long a_column, const float *b,
                    long b_row, long b_column, float *c, long c_row, int add) {
    (half && m * n >= FEW && k >= LANES ? rounded : exact)(m, n, k, a, a_row, a_column, b, b_row, b_column, c, c_row, add);
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
    long active;                     /* whether ReLU follows */
    long half;                       /* whether factors may be rounded to bf16 */
};

/* The layer before the bias: (rows, out) of x (rows, in). */
static void multiplied(const struct layer *of, long rows, const float *x, long apart, float *out) {
    if (of->out > 1 || of->weight_in != 1) {
        product(of->half, rows, of->out, of->in, x, apart, 1, of->weight, of->weight_in, of->weight_out, out, of->out, 0);
        return;
    }
    for (long r = 0; r < rows; r++, x += apart) {
        const float *weight = of->weight;
        out[r] = SUM(of->in, load(x + i) * load(weight + i), x[i] * weight[i]);
    }
}

void forward(const struct layer *layers, long count, long rows, const float *x, long apart, float epsilon) {
    for (const struct layer *of = layers; of < layers + count; of++) {
        long width = of->out;
        float *product = of->before ? of->before : of->after, floor = of->active ? 0.0f : -1.0f / 0.0f;
        multiplied(of, rows, x, apart, product);
        for (long r = 0; r < rows; r++) {
            float *row = product + r * width, *to = of->after + r * width;
            if (!of->before) {
                for (long i = 0; i < width; i++) {
                    float value = row[i] + of->bias[i];
                    /* As torch's ReLU, it keeps what is no number. */
                    to[i] = value < floor ? floor : value;
                }
                continue;
            }
            for (long i = 0; i < width; i++) row[i] += of->bias[i];
            float mean = SUM(width, load(row + i), row[i]) / width;
            floats level = all(mean);
            float squares = SUM(width, (load(row + i) - level) * (load(row + i) - level), (row[i] - mean) * (row[i] - mean));
            float inverse = 1 / __builtin_sqrtf(squares / width + epsilon);
            of->mean[r] = mean;
            of->inverse[r] = inverse;
            for (long i = 0; i < width; i++) {
                float value = (row[i] - mean) * inverse;
                to[i] = value < floor ? floor : value;
            }
        }
        x = of->after;
        apart = width;
    }
}

/* From the gradient of what comes out of a layer (rows, out) to that before its activation and normalisation, in its
 * place; of all rows, or of those that `chosen` names. */
static void inward(const struct layer *of, long rows, const long *chosen, float *gradient) {
    long width = of->out;
    for (long r = 0; r < rows; r++, gradient += width) {
        long from = chosen ? chosen[r] : r;
        const float *after = of->after + from * width;
        if (of->active)
            for (long i = 0; i < width; i++) gradient[i] = after[i] <= 0 ? 0.0f : gradient[i];
        if (!of->before) continue;
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
static void through(const struct layer *of, long rows, const float *gradient, long first, float *out) {
    long width = of->in - first;
    const float *weight = of->weight + first * of->weight_in;
    if (of->out > 1 || of->weight_in != 1) {
        product(of->half, rows, width, of->out, gradient, of->out, 1, weight, of->weight_out, of->weight_in, out, width, 0);
        return;
    }
    for (long r = 0; r < rows; r++, out += width)
        for (long i = 0; i < width; i++) out[i] = gradient[r] * weight[i];
}

/* Add to the gradients of weights and biases. */
static void learned(const struct layer *of, long rows, const float *x, long apart, const float *gradient) {
    long width = of->out;
    if (of->weight_grad && width == 1 && of->grad_in == 1) {
        for (long r = 0; r < rows; r++)
            for (long i = 0; i < of->in; i++) of->weight_grad[i] += gradient[r] * x[r * apart + i];
    } else if (of->weight_grad && of->grad_out == 1) {
        product(of->half, of->in, width, rows, x, 1, apart, gradient, width, 1, of->weight_grad, of->grad_in, 1);
    } else if (of->weight_grad) {
        product(of->half, width, of->in, rows, gradient, 1, width, x, apart, 1, of->weight_grad, of->grad_out, 1);
    }
    if (of->bias_grad)
        for (long r = 0; r < rows; r++)
            for (long i = 0; i < width; i++) of->bias_grad[i] += gradient[r * width + i];
}

void backward(const struct layer *layers, long count, long rows, const float *x, long apart, float *gradient,
              float *inner) {
    for (long index = count - 1; index >= 0; index--) {
        const struct layer *of = layers + index, *below = of - 1;
        inward(of, rows, 0, gradient);
        learned(of, rows, index ? below->after : x, index ? below->out : apart, gradient);
        float *next = index ? below->outer : inner;
        if (next) through(of, rows, gradient, 0, next);
        gradient = next;
    }
}

void climb(const struct layer *layers, long count, long rows, const float *gradient, long first, long *chosen,
           float *asked, float *inner, float *total) {
    long wanted = 0, width = layers->in - first;
    for (long r = 0; r < rows; r++)
        if (gradient[r] != 0) {
            chosen[wanted] = r;
            asked[wanted++] = gradient[r];
        }
    for (long index = count - 1; index >= 0; index--) {
        const struct layer *of = layers + index;
        inward(of, wanted, chosen, asked);
        float *next = index ? of[-1].outer : inner;
        through(of, wanted, asked, index ? 0 : first, next);
        asked = next;
    }
    for (long r = 0; r < wanted; r++)
        for (long i = 0; i < width; i++) total[chosen[r] * width + i] += inner[r * width + i];
}
