include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/DartQuant)

# One export per component, so that an engine that embeds the kernels alone needs none of the other packages.
install(TARGETS dartquant_kernels EXPORT DartQuant-kernels FILE_SET HEADERS)
install(EXPORT DartQuant-kernels NAMESPACE DartQuant:: DESTINATION ${package_dir} FILE DartQuant-kernels-targets.cmake)
if(NOT DARTQUANT_KERNELS_ONLY)
  install(TARGETS dartquant_headers dartquant EXPORT DartQuant-core FILE_SET HEADERS)
  install(EXPORT DartQuant-core NAMESPACE DartQuant:: DESTINATION ${package_dir} FILE DartQuant-core-targets.cmake)
endif()
if(TARGET dartquant_cuda)
  install(TARGETS dartquant_cuda EXPORT DartQuant-cuda FILE_SET HEADERS)
  install(EXPORT DartQuant-cuda NAMESPACE DartQuant:: DESTINATION ${package_dir} FILE DartQuant-cuda-targets.cmake)
endif()
configure_package_config_file(cmake/DartQuantConfig.cmake.in DartQuantConfig.cmake INSTALL_DESTINATION ${package_dir})
# Before 1.0 a minor version may change the API.
write_basic_package_version_file(DartQuantConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/DartQuantConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/DartQuantConfigVersion.cmake
  DESTINATION ${package_dir})
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
