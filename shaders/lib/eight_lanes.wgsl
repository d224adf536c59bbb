// Four elements each of eight rows, such as every lane of a subgroup of eight has.
struct Eight {
    low: mat4x4<f32>,
    high: mat4x4<f32>,
}

#if SUBGROUPS
fn of_lanes(own: vec4<f32>) -> Eight {
    return Eight(
        mat4x4<f32>(
            subgroupBroadcast(own, 0u),
            subgroupBroadcast(own, 1u),
            subgroupBroadcast(own, 2u),
            subgroupBroadcast(own, 3u),
        ),
        mat4x4<f32>(
            subgroupBroadcast(own, 4u),
            subgroupBroadcast(own, 5u),
            subgroupBroadcast(own, 6u),
            subgroupBroadcast(own, 7u),
        ),
    );
}
#endif
