# The warnings that every target of this project compiles under, on g++ and clang.
function(dartquant_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wconversion -Wshadow)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    target_compile_options(${target} PRIVATE -Wno-restrict)   # g++ 12 invents an overlap in "text" + std::string (its bug 105651)
  endif()
endfunction()
