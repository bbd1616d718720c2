# With DARTQUANT_UNITY_BUILD, compiles the given sources of a target as four large files: most of the time goes into headers,
# which each of them reads once.
function(dartquant_unity target)
  if(NOT DARTQUANT_UNITY_BUILD)
    return()
  endif()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
  set(group 0)
  foreach(source IN LISTS ARGN)
    set_source_files_properties(${source} PROPERTIES UNITY_GROUP ${target}_${group})
    math(EXPR group "(${group} + 1) % 4")
  endforeach()
endfunction()
