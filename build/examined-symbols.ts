/**
 * The symbols of libstdc++ that Bun's musl build may use. Debian's libstdc++ is made for glibc; of
 * each of these it was looked that neither it nor what it calls touches what differs between glibc
 * and musl: they reach malloc, mem* and str*, stdio, clock_gettime, futex, pthread mutexes and
 * conditions, `__tls_get_addr` and `_Unwind_*`, and nothing that libstdc++'s constructors would
 * have to prepare, for those never run. Before a name is added here, look at what it reaches in the
 * same way.
 */
export const examinedSymbols: ReadonlySet<string> = new Set([
  "_ZNKSt8__detail20_Prime_rehash_policy11_M_next_bktEm",
  "_ZNKSt8__detail20_Prime_rehash_policy14_M_need_rehashEmmm",
  "_ZNSt18condition_variable10notify_allEv",
  "_ZNSt18condition_variable10notify_oneEv",
  "_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE",
  "_ZNSt18condition_variableC1Ev",
  "_ZNSt18condition_variableD1Ev",
  "_ZNSt6chrono3_V212steady_clock3nowEv",
  "_ZNSt8__detail15_List_node_base7_M_hookEPS0_",
  "_ZNSt8__detail15_List_node_base9_M_unhookEv",
  "_ZSt11_Hash_bytesPKvmm",
  "_ZSt11__once_call",
  "_ZSt13set_terminatePFvvE",
  "_ZSt15__once_callable",
  "_ZSt15get_new_handlerv",
  "_ZSt17__throw_bad_allocv",
  "_ZSt18_Rb_tree_decrementPSt18_Rb_tree_node_base",
  "_ZSt18_Rb_tree_incrementPSt18_Rb_tree_node_base",
  "_ZSt19__throw_logic_errorPKc",
  "_ZSt20__throw_length_errorPKc",
  "_ZSt20__throw_system_errori",
  "_ZSt21__glibcxx_assert_failPKciS0_S0_",
  "_ZSt24__throw_out_of_range_fmtPKcz",
  "_ZSt25__throw_bad_function_callv",
  "_ZSt28_Rb_tree_rebalance_for_erasePSt18_Rb_tree_node_baseRS_",
  "_ZSt28__throw_bad_array_new_lengthv",
  "_ZSt29_Rb_tree_insert_and_rebalancebPSt18_Rb_tree_node_baseS0_RS_",
  "_ZSt9terminatev",
  "_ZTVN10__cxxabiv117__class_type_infoE",
  "_ZTVN10__cxxabiv120__si_class_type_infoE",
  "_ZTVN10__cxxabiv121__vmi_class_type_infoE",
  "__cxa_bad_typeid",
  "__cxa_demangle",
  "__cxa_guard_acquire",
  "__cxa_guard_release",
  "__cxa_pure_virtual",
  "__dynamic_cast",
  "__once_proxy",
]);
