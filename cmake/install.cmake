include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/DartQuant)

install(TARGETS dartquant_headers dartquant_kernels dartquant EXPORT DartQuant-core FILE_SET HEADERS)
install(EXPORT DartQuant-core NAMESPACE DartQuant:: DESTINATION ${package_dir} FILE DartQuant-core-targets.cmake)
configure_package_config_file(cmake/DartQuantConfig.cmake.in DartQuantConfig.cmake INSTALL_DESTINATION ${package_dir})
# Before 1.0 a minor version may change the API.
write_basic_package_version_file(DartQuantConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/DartQuantConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/DartQuantConfigVersion.cmake
  DESTINATION ${package_dir})
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
