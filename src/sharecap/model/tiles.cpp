// Causal attention of a pack's documents and its gradient, on a CPU with AMX. Built and called by tiles.py.
//
// A task is one head of one document; nothing of another document is ever read. Scores are computed as
// keys x queries, so that sixteen queries lie in the lanes of one register and a softmax needs no sums across
// lanes. They are exact to float32, and rounded to bf16 only as factors of the next product.
//
// q, k, v, out and their gradients: bf16 [tokens, heads, width]; sums (logarithms of the softmax's): float32
// [heads, tokens]; width: a multiple of 32.

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <numeric>
#include <vector>

namespace {

using bf16 = uint16_t;
constexpr int ROWS = 16;            // of a tile, and float32 or pairs of bf16 in one of its rows
constexpr int BLOCK = 32;           // keys, queries or columns that one tile multiplies over
constexpr int TILE = ROWS * BLOCK;  // bf16 in a tile

struct alignas(64) Shape {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

template <class T>
struct Room {  // aligned memory that is not initialised
    std::unique_ptr<T, decltype(&std::free)> at;
    explicit Room(size_t count)
        : at(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)), &std::free) {
        if (!at) throw std::bad_alloc();
    }
    operator T*() const { return at.get(); }
};

// 2 x 2 tiles at a time: C[i][j] += A[i] B[j]. Tiles 0 to 3 are C, 4 and 5 A, 6 and 7 B.
inline void zero4() {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
}

// What was written must be in memory before a tile instruction reads it: g++ 12 does not see that it does.
inline void written() { asm volatile("" ::: "memory"); }

inline void multiply4(const bf16* a0, const bf16* a1, int a_bytes, const bf16* b0, const bf16* b1) {
    written();
    _tile_loadd(4, a0, a_bytes);
    _tile_loadd(6, b0, 64);
    _tile_loadd(7, b1, 64);
    _tile_loadd(5, a1, a_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

inline void load4(const float* c, int row_bytes) {
    const float* below = reinterpret_cast<const float*>(reinterpret_cast<const char*>(c) + ROWS * row_bytes);
    written();
    _tile_loadd(0, c, row_bytes);
    _tile_loadd(1, c + ROWS, row_bytes);
    _tile_loadd(2, below, row_bytes);
    _tile_loadd(3, below + ROWS, row_bytes);
}

inline void store4(float* c, int row_bytes) {
    float* below = reinterpret_cast<float*>(reinterpret_cast<char*>(c) + ROWS * row_bytes);
    _tile_stored(0, c, row_bytes);
    _tile_stored(1, c + ROWS, row_bytes);
    _tile_stored(2, below, row_bytes);
    _tile_stored(3, below + ROWS, row_bytes);
}

inline __m512 exp_of(__m512 x) {  // relative error below 4e-6; 0 below -104
    x = _mm512_max_ps(_mm512_set1_ps(-104.f), x);  // in this order what is no number stays so
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693147181f), x);
    __m512 p = _mm512_set1_ps(1.f / 120);
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.f / 24));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.f / 6));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(0.5f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.f));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.f));
    return _mm512_scalef_ps(p, n);
}

inline __m512 widened(const bf16* from) {
    const __m256i read = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(read), 16));
}

inline __m256i halved(__m512 x) { return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)); }

inline __m512i interleaved(__m256i low, __m256i high) {  // pairs of two rows, as tiles on the right want them
    return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
}

inline __mmask16 visible(int key, int first_query) {  // which of sixteen queries see that key
    int hidden = key - first_query;
    return hidden <= 0 ? 0xffff : hidden >= ROWS ? 0 : static_cast<__mmask16>(0xffff << hidden);
}

// ---- A document's rows of one head, and the orders in which tiles want them.

struct Size {
    int length, padded, width;  // padded: to whole blocks of 32
    size_t count() const { return static_cast<size_t>(padded) * width; }
};

void take(const bf16* from, size_t row, Size s, bf16* to) {  // zeros behind the document's end
    for (int i = 0; i < s.length; ++i) std::memcpy(to + static_cast<size_t>(i) * s.width, from + i * row, s.width * 2);
    std::memset(to + static_cast<size_t>(s.length) * s.width, 0, static_cast<size_t>(s.padded - s.length) * s.width * 2);
}

// The rows as columns of a right factor: tiles [rows / 16][width / 32].
void columns(const bf16* from, Size s, bf16* to) {
    const __m512i every = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(s.width / 2));
    for (int i = 0; i < s.padded; i += ROWS)
        for (int d = 0; d < s.width; d += BLOCK, to += TILE)
            for (int r = 0; r < ROWS; ++r)
                _mm512_store_si512(
                    to + r * BLOCK, _mm512_i32gather_epi32(every, from + static_cast<size_t>(i) * s.width + d + 2 * r, 4));
}

// The rows as rows of a right factor: tiles [rows / 32][width / 16].
void pairs(const bf16* from, Size s, bf16* to) {
    for (int i = 0; i < s.padded; i += BLOCK)
        for (int d = 0; d < s.width; d += ROWS, to += TILE)
            for (int r = 0; r < ROWS; ++r) {
                const bf16* at = from + static_cast<size_t>(i + 2 * r) * s.width + d;
                _mm512_store_si512(
                    to + r * BLOCK,
                    interleaved(
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at + s.width))));
            }
}

// The rows transposed, a left factor: [width, padded].
void turned(const bf16* from, Size s, bf16* to) {
    const __m512i every = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(s.width / 2));
    alignas(64) static const uint16_t even_words[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                        32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
    const __m512i even = _mm512_load_si512(even_words);
    const __m512i odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
    for (int i = 0; i < s.padded; i += BLOCK)
        for (int d = 0; d < s.width; d += 2) {
            const bf16* at = from + static_cast<size_t>(i) * s.width + d;
            __m512i first = _mm512_i32gather_epi32(every, at, 4);
            __m512i second = _mm512_i32gather_epi32(every, at + ROWS * s.width, 4);
            bf16* row = to + static_cast<size_t>(d) * s.padded + i;
            _mm512_storeu_si512(row, _mm512_permutex2var_epi16(first, even, second));
            _mm512_storeu_si512(row + s.padded, _mm512_permutex2var_epi16(first, odd, second));
        }
}

// Sixteen columns (queries) of `from` [width, padded] float32, as rows of the result.
void give(const float* from, int row, int width, int count, bf16* to, size_t to_row) {
    const __m512i every = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(row));
    for (int n = 0; n < count; ++n)
        for (int d = 0; d < width; d += ROWS)
            _mm256_storeu_si256(
                reinterpret_cast<__m256i*>(to + n * to_row + d),
                halved(_mm512_i32gather_ps(every, from + static_cast<size_t>(d) * row + n, 4)));
}

// Scores of 32 keys and 32 queries, keys x queries, rows of 32.
inline void score(const bf16* keys, const bf16* queries, int width, float* to) {
    zero4();
    for (int d = 0; d < width; d += BLOCK)
        multiply4(
            keys + d, keys + ROWS * width + d, width * 2, queries + d * ROWS, queries + (width + d) * ROWS);
    store4(to, BLOCK * 4);
}

struct Pack {
    const int32_t* borders;
    int documents, tokens, heads, width;
    float scale;

    size_t row() const { return static_cast<size_t>(heads) * width; }
    size_t at(int document, int head) const { return borders[document] * row() + static_cast<size_t>(head) * width; }
    Size size(int document) const {
        int length = borders[document + 1] - borders[document];
        return {length, (length + BLOCK - 1) / BLOCK * BLOCK, width};
    }
    float* sums(float* all, int document, int head) const {
        return all + static_cast<size_t>(head) * tokens + borders[document];
    }
};

struct Forward {
    const bf16 *q, *k, *v;
    bf16* out;
    float* sums;

    struct Rooms {
        Room<bf16> rows, queries, keys, values, shares;
        Room<float> scored, mixed;
        explicit Rooms(Size s)
            : rows(s.count()), queries(s.count()), keys(s.count()), values(s.count()),
              shares(static_cast<size_t>(s.padded) * BLOCK), scored(static_cast<size_t>(s.padded) * BLOCK),
              mixed(static_cast<size_t>(s.width) * BLOCK) {}
    };

    void operator()(const Pack& pack, int document, int head, const Rooms& in) const {
        const Size s = pack.size(document);
        const size_t at = pack.at(document, head), row = pack.row();
        take(q + at, row, s, in.rows);
        columns(in.rows, s, in.queries);
        take(v + at, row, s, in.rows);
        turned(in.rows, s, in.values);
        take(k + at, row, s, in.keys);
        const __m512 scale = _mm512_set1_ps(pack.scale);
        for (int first = 0; first < s.length; first += BLOCK) {
            const int end = first + BLOCK;  // of the keys that these queries see
            for (int key = 0; key < end; key += BLOCK)
                score(
                    in.keys + static_cast<size_t>(key) * s.width, in.queries + static_cast<size_t>(first) * s.width,
                    s.width, in.scored + key * BLOCK);
            __m512 totals[2];
            for (int half = 0; half < 2; ++half) {
                const int query = first + half * ROWS;
                const float* scored = in.scored + half * ROWS;
                bf16* shares = in.shares + half * TILE;  // tiles [keys / 32][2]
                __m512 most = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
                for (int key = 0; key < first; ++key) most = _mm512_max_ps(most, _mm512_load_ps(scored + key * BLOCK));
                for (int key = first; key < end; ++key)
                    most = _mm512_mask_max_ps(most, visible(key, query), most, _mm512_load_ps(scored + key * BLOCK));
                most = _mm512_mul_ps(most, scale);
                __m512 total = _mm512_setzero_ps();
                auto share = [&](int key, __mmask16 seen) {
                    __m512 x = exp_of(_mm512_fmsub_ps(_mm512_load_ps(scored + key * BLOCK), scale, most));
                    x = _mm512_maskz_mov_ps(seen, x);
                    total = _mm512_add_ps(total, x);
                    return halved(x);
                };
                for (int key = 0; key < end; key += 2) {
                    const bool all = key < first;
                    const __m256i even = share(key, all ? 0xffff : visible(key, query));
                    const __m256i odd = share(key + 1, all ? 0xffff : visible(key + 1, query));
                    _mm512_store_si512(
                        shares + key / BLOCK * 2 * TILE + key % BLOCK / 2 * BLOCK, interleaved(even, odd));
                }
                totals[half] = total;
                alignas(64) float of[ROWS], largest[ROWS];
                _mm512_store_ps(of, total);
                _mm512_store_ps(largest, most);
                for (int n = 0; n < ROWS && query + n < s.length; ++n)
                    pack.sums(sums, document, head)[query + n] = largest[n] + std::log(of[n]);
            }
            for (int d = 0; d < s.width; d += BLOCK) {
                const bf16* values = in.values + static_cast<size_t>(d) * s.padded;
                zero4();
                for (int key = 0; key < end; key += BLOCK)
                    multiply4(
                        values + key, values + ROWS * s.padded + key, s.padded * 2, in.shares + key * BLOCK,
                        in.shares + key * BLOCK + TILE);
                store4(in.mixed + d * BLOCK, BLOCK * 4);
            }
            for (int half = 0; half < 2 && first + half * ROWS < s.length; ++half) {
                const int query = first + half * ROWS;
                for (int d = 0; d < s.width; ++d) {
                    float* place = in.mixed + d * BLOCK + half * ROWS;
                    _mm512_store_ps(place, _mm512_div_ps(_mm512_load_ps(place), totals[half]));
                }
                give(
                    in.mixed + half * ROWS, BLOCK, s.width, std::min(ROWS, s.length - query), out + at + query * row,
                    row);
            }
        }
    }
};

struct Backward {
    const bf16 *grad, *out, *q, *k, *v;
    float* sums;
    bf16 *dq, *dk, *dv;

    struct Rooms {
        Room<bf16> rows, keys, values, q_columns, q_pairs, g_columns, g_pairs, k_turned, shares, slopes, slope_pairs;
        Room<float> logs, means, scored, weighted, dq_turned;
        explicit Rooms(Size s)
            : rows(s.count()), keys(s.count()), values(s.count()), q_columns(s.count()), q_pairs(s.count()),
              g_columns(s.count()), g_pairs(s.count()), k_turned(s.count()),
              shares(static_cast<size_t>(s.padded) * BLOCK), slopes(static_cast<size_t>(s.padded) * BLOCK),
              slope_pairs(2 * TILE), logs(s.padded), means(s.padded), scored(BLOCK * BLOCK), weighted(BLOCK * BLOCK),
              dq_turned(s.count()) {}
    };

    void operator()(const Pack& pack, int document, int head, const Rooms& in) const {
        const Size s = pack.size(document);
        const size_t at = pack.at(document, head), row = pack.row();
        take(q + at, row, s, in.rows);
        columns(in.rows, s, in.q_columns);
        pairs(in.rows, s, in.q_pairs);
        take(grad + at, row, s, in.rows);
        columns(in.rows, s, in.g_columns);
        pairs(in.rows, s, in.g_pairs);
        take(k + at, row, s, in.keys);
        turned(in.keys, s, in.k_turned);
        take(v + at, row, s, in.values);
        // Behind the end, a share of exp(-inf) is none.
        std::fill(in.logs + s.length, in.logs + s.padded, std::numeric_limits<float>::infinity());
        std::fill(in.means + s.length, in.means + s.padded, 0.f);
        std::copy_n(pack.sums(sums, document, head), s.length, static_cast<float*>(in.logs));
        for (int i = 0; i < s.length; ++i) in.means[i] = product(in.rows + static_cast<size_t>(i) * s.width, out + at + i * row, s.width);
        std::fill_n(static_cast<float*>(in.dq_turned), s.count(), 0.f);
        for (int key = 0; key < s.padded; key += BLOCK) {
            for (int query = key; query < s.padded; query += BLOCK) {
                const size_t keys = static_cast<size_t>(key) * s.width, queries = static_cast<size_t>(query) * s.width;
                score(in.keys + keys, in.q_columns + queries, s.width, in.scored);
                score(in.values + keys, in.g_columns + queries, s.width, in.weighted);
                slope(pack, s, key, query, in);
                for (int d = 0; d < s.width; d += BLOCK) {
                    const bf16* turned_keys = in.k_turned + static_cast<size_t>(d) * s.padded + key;
                    float* sum = in.dq_turned + static_cast<size_t>(d) * s.padded + query;
                    load4(sum, s.padded * 4);
                    multiply4(
                        turned_keys, turned_keys + ROWS * s.padded, s.padded * 2, in.slope_pairs, in.slope_pairs + TILE);
                    store4(sum, s.padded * 4);
                }
            }
            learn(s, key, in.shares, in.g_pairs, in.scored, dv + at, row);
            learn(s, key, in.slopes, in.q_pairs, in.scored, dk + at, row);
        }
        for (int query = 0; query < s.length; query += ROWS)
            give(in.dq_turned + query, s.padded, s.width, std::min(ROWS, s.length - query), dq + at + query * row, row);
    }

    static float product(const bf16* a, const bf16* b, int width) {
        __m512 sum = _mm512_setzero_ps();
        for (int d = 0; d < width; d += ROWS) sum = _mm512_fmadd_ps(widened(a + d), widened(b + d), sum);
        return _mm512_reduce_add_ps(sum);
    }

    // Shares of 32 keys for 32 queries and their gradients by the scores, as factors of the products to come.
    static void slope(const Pack& pack, Size s, int key, int query, const Rooms& in) {
        const __m512 scale = _mm512_set1_ps(pack.scale);
        for (int half = 0; half < 2; ++half) {
            const int first = query + half * ROWS;
            const __m512 log = _mm512_load_ps(in.logs + first), mean = _mm512_load_ps(in.means + first);
            const size_t column = query - key + half * ROWS;
            auto one = [&](int r) {
                const __mmask16 seen = key < query ? 0xffff : visible(key + r, first);
                const int place = r * BLOCK + half * ROWS;
                __m512 share = exp_of(_mm512_fmsub_ps(_mm512_load_ps(in.scored + place), scale, log));
                share = _mm512_maskz_mov_ps(seen, share);
                const __m512 slope = _mm512_mul_ps(
                    _mm512_mul_ps(share, scale), _mm512_sub_ps(_mm512_load_ps(in.weighted + place), mean));
                const __m256i made = halved(slope);
                const size_t to = static_cast<size_t>(r) * s.padded + column;
                _mm256_store_si256(reinterpret_cast<__m256i*>(in.shares + to), halved(share));
                _mm256_store_si256(reinterpret_cast<__m256i*>(in.slopes + to), made);
                return made;
            };
            for (int r = 0; r < BLOCK; r += 2) {
                const __m256i even = one(r), odd = one(r + 1);
                _mm512_store_si512(in.slope_pairs + half * TILE + r / 2 * BLOCK, interleaved(even, odd));
            }
        }
    }

    // A gradient of 32 keys: what all queries from theirs on give, by `weights` [32, padded].
    static void learn(
        Size s, int key, const bf16* weights, const bf16* given, float* block, bf16* to, size_t row) {
        for (int d = 0; d < s.width; d += BLOCK) {
            zero4();
            for (int query = key; query < s.padded; query += BLOCK) {
                const bf16* right = given + static_cast<size_t>(query) * s.width + d * BLOCK;
                multiply4(
                    weights + query - key, weights + ROWS * s.padded + query - key, s.padded * 2, right, right + TILE);
            }
            store4(block, BLOCK * 4);
            for (int i = 0; i < BLOCK && key + i < s.length; ++i)
                for (int half = 0; half < 2; ++half)
                    _mm256_storeu_si256(
                        reinterpret_cast<__m256i*>(to + (key + i) * row + d + half * ROWS),
                        halved(_mm512_load_ps(block + i * BLOCK + half * ROWS)));
        }
    }
};

template <class Task>
void each(const Pack& pack, int threads, Task task) {  // heads of documents, the longest first
    std::vector<int> order(pack.documents);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(
        order.begin(), order.end(), [&](int a, int b) { return pack.size(a).length > pack.size(b).length; });
#pragma omp parallel num_threads(threads)
    {
        const Shape shape;
        asm volatile("" : : "r"(&shape) : "memory");
        _tile_loadconfig(&shape);
        const typename Task::Rooms rooms(pack.size(order[0]));
#pragma omp for schedule(dynamic)
        for (int i = 0; i < pack.documents * pack.heads; ++i) task(pack, order[i / pack.heads], i % pack.heads, rooms);
        _tile_release();
    }
}

}  // namespace

extern "C" {

// Ask the kernel for the tiles; 0: granted.
int request_tiles() {
    constexpr long PERMISSION = 0x1023, TILE_DATA = 18;
    return static_cast<int>(syscall(SYS_arch_prctl, PERMISSION, TILE_DATA));
}

void attend(
    const bf16* q, const bf16* k, const bf16* v, bf16* out, float* sums, const int32_t* borders, int documents, int tokens,
    int heads, int width, float scale, int threads) {
    each({borders, documents, tokens, heads, width, scale}, threads, Forward{q, k, v, out, sums});
}

void attend_gradient(
    const bf16* grad, const bf16* out, float* sums, const bf16* q, const bf16* k, const bf16* v, bf16* dq, bf16* dk,
    bf16* dv, const int32_t* borders, int documents, int tokens, int heads, int width, float scale, int threads) {
    each(
        {borders, documents, tokens, heads, width, scale}, threads, Backward{grad, out, q, k, v, sums, dq, dk, dv});
}
}
