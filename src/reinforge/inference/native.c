/* What lies between the matrix products of one decoding step, each in one pass over memory. Numbers are float, or
 * bfloat16 where HALF is defined; sums and exponentials are float. `native.py` compiles this and says what each
 * function is for. Vectors are the compiler's own, so that any processor will do. */

#include <math.h>
#include <stdint.h>
#include <string.h>

/* As wide as the processor's own: of wider ones the compiler makes several times as many instructions. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));

#ifdef HALF
typedef uint16_t number;
typedef uint16_t numbers __attribute__((vector_size(2 * LANES)));
static inline floats load(const number *x) {
    numbers found;
    memcpy(&found, x, sizeof found);
    return (floats)(__builtin_convertvector(found, words) << 16);
}
static inline void store(number *x, floats value) { /* to the nearest, ties to even; what is no number stays none */
    words bits = (words)value, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    words real = (words)(value == value);
    numbers found = __builtin_convertvector((rounded & real) | (0x7fc0 & ~real), numbers);
    memcpy(x, &found, sizeof found);
}
#else
typedef float number;
static inline floats load(const number *x) {
    floats found;
    memcpy(&found, x, sizeof found);
    return found;
}
static inline void store(number *x, floats value) { memcpy(x, &value, sizeof value); }
#endif

static inline floats all(float x) { return x - (floats){0}; }
static inline floats chosen(ints yes, floats a, floats b) { return (floats)(((ints)a & yes) | ((ints)b & ~yes)); }

/* Lane i: the sum of all lanes of x[i]. Neighbours are folded into each other, then pairs, fours and eights. */
static inline floats sums(const floats *x) {
#define FOLD(a, b, ...) (__builtin_shufflevector(a, b, __VA_ARGS__)
#if LANES == 16
    floats two[8], four[4], eight[2];
    for (int i = 0; i < 8; i++)
        two[i] = FOLD(x[2 * i], x[2 * i + 1], 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30)) +
                 FOLD(x[2 * i], x[2 * i + 1], 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31));
    for (int i = 0; i < 4; i++)
        four[i] = FOLD(two[2 * i], two[2 * i + 1], 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)) +
                  FOLD(two[2 * i], two[2 * i + 1], 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31));
    for (int i = 0; i < 2; i++)
        eight[i] = FOLD(four[2 * i], four[2 * i + 1], 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27)) +
                   FOLD(four[2 * i], four[2 * i + 1], 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31));
    return FOLD(eight[0], eight[1], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23)) +
           FOLD(eight[0], eight[1], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31));
#elif LANES == 8
    floats two[4], four[2];
    for (int i = 0; i < 4; i++)
        two[i] = FOLD(x[2 * i], x[2 * i + 1], 0, 8, 2, 10, 4, 12, 6, 14)) +
                 FOLD(x[2 * i], x[2 * i + 1], 1, 9, 3, 11, 5, 13, 7, 15));
    for (int i = 0; i < 2; i++)
        four[i] = FOLD(two[2 * i], two[2 * i + 1], 0, 1, 8, 9, 4, 5, 12, 13)) +
                  FOLD(two[2 * i], two[2 * i + 1], 2, 3, 10, 11, 6, 7, 14, 15));
    return FOLD(four[0], four[1], 0, 1, 2, 3, 8, 9, 10, 11)) + FOLD(four[0], four[1], 4, 5, 6, 7, 12, 13, 14, 15));
#else
    floats two[2];
    for (int i = 0; i < 2; i++)
        two[i] = FOLD(x[2 * i], x[2 * i + 1], 0, 4, 2, 6)) + FOLD(x[2 * i], x[2 * i + 1], 1, 5, 3, 7));
    return FOLD(two[0], two[1], 0, 1, 4, 5)) + FOLD(two[0], two[1], 2, 3, 6, 7));
#endif
}

static inline float sum(floats x) {
    float found = 0;
    for (int i = 0; i < LANES; i++) found += x[i];
    return found;
}

static inline float largest(floats x) {
    float found = x[0];
    for (int i = 1; i < LANES; i++) found = x[i] > found ? x[i] : found;
    return found;
}

/* e^x to about one unit in the last place, and 0 below -87: a power of two times the Taylor polynomial of the rest. */
static inline floats exponential(floats x) {
    floats held = chosen(x < -87, all(-87), chosen(x > 88, all(88), x));
    /* Added and taken away, this rounds to a whole number. */
    floats whole = (held * 1.44269504f + 12582912.0f) - 12582912.0f;
    floats rest = (held - whole * 0.693145752f) - whole * 1.42860677e-6f;
    floats found = all(1 / 5040.0f);
    found = found * rest + 1 / 720.0f;
    found = found * rest + 1 / 120.0f;
    found = found * rest + 1 / 24.0f;
    found = found * rest + 1 / 6.0f;
    found = found * rest + 0.5f;
    found = found * rest + 1;
    found = found * rest + 1;
    floats power = (floats)((__builtin_convertvector(whole, ints) + 127) << 23);
    return chosen(x < -87, all(0), found * power);
}

void normalise(const number *x_nd, const float *gain_d, number *out_nd, long rows, long width, float epsilon) {
    for (long row = 0; row < rows; row++, x_nd += width, out_nd += width) {
        floats square = {0};
        for (long i = 0; i < width; i += LANES) square += load(x_nd + i) * load(x_nd + i);
        float inverse = 1 / sqrtf(sum(square) / width + epsilon);
        for (long i = 0; i < width; i += LANES) {
            floats gain;
            memcpy(&gain, gain_d + i, sizeof gain);
            store(out_nd + i, load(x_nd + i) * inverse * gain);
        }
    }
}

void gate(const number *both_nf, number *out_nf, long rows, long hidden, long gelu) {
    for (long row = 0; row < rows; row++, both_nf += 2 * hidden, out_nf += hidden)
        for (long i = 0; i < hidden; i += LANES) {
            floats x = load(both_nf + i), up = load(both_nf + hidden + i);
            /* Half (1 + tanh y) is the logistic function of 2 y. */
            floats inner = gelu ? 1.59576912f * (x + 0.044715f * x * x * x) : x;
            store(out_nf + i, x / (1 + exponential(-inner)) * up);
        }
}

/* x cos + (halves of x exchanged) sin; the sines' first half is negated. */
static inline void turn(const number *x, const float *cos, const float *sin, number *out, long width) {
    if (!cos) {
        memcpy(out, x, width * sizeof(number));
        return;
    }
    for (long i = 0; i < width; i += LANES) {
        floats a, b;
        memcpy(&a, cos + i, sizeof a);
        memcpy(&b, sin + i, sizeof b);
        store(out + i, load(x + i) * a + load(x + (i < width / 2 ? i + width / 2 : i - width / 2)) * b);
    }
}

#define WIDEST 256   /* head width */
#define TOGETHER 512 /* cached positions whose weights are held at once */

/* softmax(q k^T scale) v of one query over the positions from `first` to before `last`, stretch by stretch. */
static inline __attribute__((always_inline)) void mix(const number *q, const number *keys, const number *values,
                                                      long first, long last, long width, float scale, number *out) {
    floats query[WIDEST / LANES], mixed[WIDEST / LANES], weight[TOGETHER / LANES];
    float total = 0, most = -INFINITY;
    for (long i = 0; i < width / LANES; i++) query[i] = load(q + i * LANES) * scale, mixed[i] = all(0);
    for (long start = first / LANES * LANES; start < last; start += TOGETHER) {
        long end = last - start < TOGETHER ? last : start + TOGETHER, blocks = (end - start + LANES - 1) / LANES;
        floats highest = all(-INFINITY), more = {0};
        for (long block = 0; block < blocks; block++) {
            const number *key = keys + (start + block * LANES) * width;
            const number *value = values + (start + block * LANES) * width;
            floats parts[LANES];
            ints place;
            /* Memory answers late: the next keys and these values are asked for while these keys are at work. */
            for (long i = 0; i < LANES * width; i += 64 / sizeof(number)) {
                __builtin_prefetch(key + LANES * width + i);
                __builtin_prefetch(value + i);
            }
            for (int c = 0; c < LANES; c++, key += width) {
                floats part = query[0] * load(key);
                for (long i = 1; i < width / LANES; i++) part += query[i] * load(key + i * LANES);
                parts[c] = part, place[c] = (int32_t)(start + block * LANES) + c;
            }
            floats scores = chosen((place >= (int32_t)first) & (place < (int32_t)last), sums(parts), all(-INFINITY));
            weight[block] = scores, highest = chosen(scores > highest, scores, highest);
        }
        float before = most, now = largest(highest);
        most = now > most ? now : most;
        for (long block = 0; block < blocks; block++) more += weight[block] = exponential(weight[block] - most);
        if (before != -INFINITY) {
            float kept = exponential(all(before - most))[0];
            total *= kept;
            for (long i = 0; i < width / LANES; i++) mixed[i] *= kept;
        }
        total += sum(more);
        const float *each = (const float *)weight;
        for (long c = start < first ? first : start; c < end; c++)
            for (long i = 0; i < width / LANES; i++)
                mixed[i] += each[c - start] * load(values + c * width + i * LANES);
    }
    for (long i = 0; i < width / LANES; i++) store(out + i * LANES, mixed[i] / total);
}

void attend(const number *q_nhe, const number *k_nke, const number *v_nke, long q_stride, long k_stride, long v_stride,
            const float *cos_ce, const float *sin_ce, const int64_t *position_n, number *keys_skce,
            number *values_skce, number *out_nhe, long rows, long heads, long kv_heads, long width, long capacity,
            long window, float scale, long threads) {
    long group = heads / kv_heads;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long pair = 0; pair < rows * kv_heads; pair++) {
        long row = pair / kv_heads, head = pair % kv_heads, position = position_n[row];
        const float *cos = cos_ce ? cos_ce + position * width : 0, *sin = cos_ce ? sin_ce + position * width : 0;
        number *keys = keys_skce + pair * capacity * width, *values = values_skce + pair * capacity * width;
        number query[WIDEST];
        turn(k_nke + row * k_stride + head * width, cos, sin, keys + position * width, width);
        memcpy(values + position * width, v_nke + row * v_stride + head * width, width * sizeof(number));
        long first = window && position >= window ? position - window + 1 : 0;
        for (long member = head * group; member < (head + 1) * group; member++) {
            number *out = out_nhe + (row * heads + member) * width;
            turn(q_nhe + row * q_stride + member * width, cos, sin, query, width);
            /* A width that the compiler knows keeps the sums in registers. */
            if (width == 64) mix(query, keys, values, first, position + 1, 64, scale, out);
            else if (width == 128) mix(query, keys, values, first, position + 1, 128, scale, out);
            else mix(query, keys, values, first, position + 1, width, scale, out);
        }
    }
}

#ifndef HALF
#define BLOCK 128

void draw(const float *logits_nv, const double *uniform_n, int64_t *token_n, float *log_prob_n, long rows, long size,
          long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long row = 0; row < rows; row++) {
        const float *logits = logits_nv + row * size;
        long blocks = (size + BLOCK - 1) / BLOCK, chosen_block = 0, token = 0;
        floats highest = all(-INFINITY);
        for (long i = 0; i < size; i += LANES) {
            floats each = load(logits + i);
            highest = chosen(each > highest, each, highest);
        }
        float most = largest(highest), reached[blocks];
        double total = 0;
        for (long block = 0; block < blocks; block++) {
            long start = block * BLOCK, end = start + BLOCK < size ? start + BLOCK : size;
            floats more = {0};
            for (long i = start; i < end; i += LANES) more += exponential(load(logits + i) - most);
            total += reached[block] = sum(more);
        }
        /* Which block holds the number, then which token in it; where rounding leads past the end, the last that has
         * any probability. */
        double left = uniform_n[row] * total;
        long block = 0;
        for (; block < blocks; left -= reached[block++]) {
            if (reached[block] > 0) chosen_block = block;
            if (left < reached[block]) break;
        }
        if (block == blocks) left = INFINITY;
        for (long at = chosen_block * BLOCK; at < (chosen_block + 1) * BLOCK && at < size; at++) {
            float each = exponential(all(logits[at] - most))[0];
            if (each > 0) token = at;
            if (left < each) break;
            left -= each;
        }
        token_n[row] = token, log_prob_n[row] = logits[token] - most - (float)log(total);
    }
}
#endif
