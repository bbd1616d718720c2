# The warnings that every target of this project compiles under, on g++ and clang.
function(dartquant_warnings target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wconversion -Wshadow)
endfunction()
