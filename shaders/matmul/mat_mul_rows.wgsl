// The product of matmul/mat_mul without workgroup memory, for adapters of software: there a load or a barrier costs as
// much as many products, so a lane takes 16 weight rows and eight activation rows, whose loads serve all of them.
// Grid: (blocks of 128 weight rows folded into x and z, eights of activation rows in y). Rows of whole chunks.
#import matmul/io

const LANES: u32 = 8u;
const ROWS: u32 = 16u;

// Four elements of four activation rows. Rows past the step's hold anything; what they lead to is not stored.
fn four_rows(at: u32, stride: u32) -> mat4x4<f32> {
    return mat4x4<f32>(x[at], x[at + stride], x[at + 2u * stride], x[at + 3u * stride]);
}

@compute @workgroup_size(LANES)
fn main(
    @builtin(local_invocation_index) lane: u32,
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) n_groups: vec3<u32>,
) {
    let n_rows = value_rows(params.outputs);
    let first_x = group.y * 8u;
    let block = (group.z * n_groups.x + group.x) * LANES * ROWS;
    if block >= params.n_rows || first_x >= n_rows {
        return;
    }
    let first_w = block + lane * ROWS;
    var row_bytes: array<u32, ROWS>;
    for (var r = 0u; r < ROWS; r++) {
        row_bytes[r] = min(first_w + r, params.n_rows - 1u) * params.row_bytes;
    }
    // Four activation rows each: a weight row's first, then its second.
    var sums: array<vec4<f32>, 2u * ROWS>;
    let stride = params.n_cols >> 2u;
    for (var chunk = 0u; chunk < params.n_cols / 32u; chunk++) {
        // Parts `half` and `half + 2`, which share words in the formats of 4 bits.
        for (var half = 0u; half < 2u; half++) {
            let at = first_x * stride + chunk * 8u + half * 2u;
            let a0 = four_rows(at, stride);
            let a1 = four_rows(at + 1u, stride);
            let a2 = four_rows(at + 4u, stride);
            let a3 = four_rows(at + 5u, stride);
            let b0 = four_rows(at + 4u * stride, stride);
            let b1 = four_rows(at + 4u * stride + 1u, stride);
            let b2 = four_rows(at + 4u * stride + 4u, stride);
            let b3 = four_rows(at + 4u * stride + 5u, stride);
            for (var r = 0u; r < ROWS; r++) {
                let scales = q_scale(row_bytes[r], chunk);
                let near = q_codes(row_bytes[r], chunk, half);
                let far = q_codes(row_bytes[r], chunk, half + 2u);
                let w0 = near.lo * scales.x + scales.z;
                let w1 = near.hi * scales.x + scales.z;
                let w2 = far.lo * scales.y + scales.z;
                let w3 = far.hi * scales.y + scales.z;
                sums[2u * r] += w0 * a0 + w1 * a1 + w2 * a2 + w3 * a3;
                sums[2u * r + 1u] += w0 * b0 + w1 * b1 + w2 * b2 + w3 * b3;
            }
        }
    }
    for (var r = 0u; r < ROWS; r++) {
        for (var i = 0u; i < 8u; i++) {
            if first_x + i < n_rows && first_w + r < params.n_rows {
                store(first_x + i, first_w + r, sums[2u * r + i / 4u][i % 4u]);
            }
        }
    }
}
