// The parameter of entry points that lib/subgroups speaks of: imported within their lists.
#if SUBGROUPS
    @builtin(subgroup_size) subgroup_lanes: u32,
#endif
