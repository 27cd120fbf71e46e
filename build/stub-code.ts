/**
 * The machine code that runs before everything else. The kernel starts it with the stack of a new
 * process; it has SIGUSR1 ignored, takes variables out of the environment, changes four entries of
 * the auxiliary vector, and jumps to ld-musl with the stack pointer as it was. A test compares the
 * texts with a disassembler's.
 */

import type { ArchitectureName } from "./architecture.ts";

/** An offset in the stub page, the bytes there, and what a disassembler makes of them. */
export type Instruction = readonly [offset: number, bytes: string, text: string];

/** Where in the stub page things are. The code has these numbers built in. */
export const STUB = {
  trap: 0xa0,
  zeroByte: 0xa4,
  endOfStack: 0xa8,
  tlsDescriptor: 0xb0,
  loaderEntry: 0xb8,
  auxiliaryTable: 0xc0,
  variableNames: 0x110,
  /** Where the kernel begins; behind it the kernel's struct sigaction for SIG_IGN. */
  entry: 0x160,
  ignoringAction: 0x1a0,
  programHeaders: 0x200,
  tlsImage: 0x800,
} as const;

const x64: readonly Instruction[] = [
  // argc, argv, NULL, then the environment: rdi reads, r8 writes what stays
  [0x00, "48 8b 04 24", "mov rax,QWORD PTR [rsp]"],
  [0x04, "48 8d 7c c4 10", "lea rdi,[rsp+rax*8+0x10]"],
  [0x09, "49 89 f8", "mov r8,rdi"],
  // the next variable; NULL ends them
  [0x0c, "48 8b 37", "mov rsi,QWORD PTR [rdi]"],
  [0x0f, "48 83 c7 08", "add rdi,0x8"],
  [0x13, "48 85 f6", "test rsi,rsi"],
  [0x16, "74 3a", "je 0x52"],
  [0x18, "48 8d 15 f1 00 00 00", "lea rdx,[rip+0xf1]"],
  // against each name: rdx, from its start
  [0x1f, "49 89 f1", "mov r9,rsi"],
  [0x22, "0f b6 02", "movzx eax,BYTE PTR [rdx]"],
  [0x25, "85 c0", "test eax,eax"],
  [0x27, "74 e3", "je 0xc"],
  [0x29, "41 0f b6 09", "movzx ecx,BYTE PTR [r9]"],
  [0x2d, "83 c9 20", "or ecx,0x20"],
  [0x30, "48 ff c2", "inc rdx"],
  [0x33, "49 ff c1", "inc r9"],
  [0x36, "39 c8", "cmp eax,ecx"],
  [0x38, "74 e8", "je 0x22"],
  // not this name: on to the next; an empty one ends them, and the variable stays
  [0x3a, "0f b6 02", "movzx eax,BYTE PTR [rdx]"],
  [0x3d, "48 ff c2", "inc rdx"],
  [0x40, "85 c0", "test eax,eax"],
  [0x42, "75 f6", "jne 0x3a"],
  [0x44, "80 3a 00", "cmp BYTE PTR [rdx],0x0"],
  [0x47, "75 d6", "jne 0x1f"],
  [0x49, "49 89 30", "mov QWORD PTR [r8],rsi"],
  [0x4c, "49 83 c0 08", "add r8,0x8"],
  [0x50, "eb ba", "jmp 0xc"],
  // the NULL behind the environment
  [0x52, "49 89 30", "mov QWORD PTR [r8],rsi"],
  [0x55, "49 83 c0 08", "add r8,0x8"],
  // the next entry of the auxiliary vector: tag, value
  [0x59, "48 8b 07", "mov rax,QWORD PTR [rdi]"],
  [0x5c, "48 8b 57 08", "mov rdx,QWORD PTR [rdi+0x8]"],
  [0x60, "48 83 c7 10", "add rdi,0x10"],
  [0x64, "48 8d 35 55 00 00 00", "lea rsi,[rip+0x55]"],
  // its tag in the table of new values?
  [0x6b, "48 8b 0e", "mov rcx,QWORD PTR [rsi]"],
  [0x6e, "48 85 c9", "test rcx,rcx"],
  [0x71, "74 0f", "je 0x82"],
  [0x73, "48 39 c1", "cmp rcx,rax"],
  [0x76, "74 06", "je 0x7e"],
  [0x78, "48 83 c6 10", "add rsi,0x10"],
  [0x7c, "eb ed", "jmp 0x6b"],
  // yes
  [0x7e, "48 8b 56 08", "mov rdx,QWORD PTR [rsi+0x8]"],
  // to where it belongs now; AT_NULL is the last
  [0x82, "49 89 00", "mov QWORD PTR [r8],rax"],
  [0x85, "49 89 50 08", "mov QWORD PTR [r8+0x8],rdx"],
  [0x89, "49 83 c0 10", "add r8,0x10"],
  [0x8d, "48 85 c0", "test rax,rax"],
  [0x90, "75 c7", "jne 0x59"],
  // no function to call at exit; to ld-musl
  [0x92, "31 d2", "xor edx,edx"],
  [0x94, "ff 25 1e 00 00 00", "jmp QWORD PTR [rip+0x1e]"],
  // what nobody should call: stop
  [0xa0, "0f 0b", "ud2"],
  // _Unwind_RaiseException: _URC_END_OF_STACK, "nobody catches this"
  [0xa8, "b8 05 00 00 00", "mov eax,0x5"],
  [0xad, "c3", "ret"],
  // the entry: rt_sigaction(SIGUSR1, SIG_IGN); the program's own handler comes much later
  [0x160, "b8 0d 00 00 00", "mov eax,0xd"],
  [0x165, "bf 0a 00 00 00", "mov edi,0xa"],
  [0x16a, "48 8d 35 2f 00 00 00", "lea rsi,[rip+0x2f]"],
  [0x171, "31 d2", "xor edx,edx"],
  [0x173, "41 ba 08 00 00 00", "mov r10d,0x8"],
  [0x179, "0f 05", "syscall"],
  [0x17b, "e9 80 fe ff ff", "jmp 0x0"],
];

const arm64: readonly Instruction[] = [
  // argc, argv, NULL, then the environment: x9 reads, x8 writes what stays
  [0x00, "e9 03 00 91", "mov x9, sp"],
  [0x04, "2a 85 40 f8", "ldr x10, [x9], #8"],
  [0x08, "29 0d 0a 8b", "add x9, x9, x10, lsl #3"],
  [0x0c, "29 21 00 91", "add x9, x9, #0x8"],
  [0x10, "e8 03 09 aa", "mov x8, x9"],
  // the next variable; NULL ends them
  [0x14, "2a 85 40 f8", "ldr x10, [x9], #8"],
  [0x18, "ea 01 00 b4", "cbz x10, 0x54"],
  [0x1c, "ab 07 00 10", "adr x11, 0x110"],
  // against each name: x11, from its start
  [0x20, "ec 03 0a aa", "mov x12, x10"],
  [0x24, "6d 15 40 38", "ldrb w13, [x11], #1"],
  [0x28, "6d ff ff 34", "cbz w13, 0x14"],
  [0x2c, "8e 15 40 38", "ldrb w14, [x12], #1"],
  [0x30, "ce 01 1b 32", "orr w14, w14, #0x20"],
  [0x34, "bf 01 0e 6b", "cmp w13, w14"],
  [0x38, "60 ff ff 54", "b.eq 0x24"],
  // not this name: on to the next; an empty one ends them, and the variable stays
  [0x3c, "6d 15 40 38", "ldrb w13, [x11], #1"],
  [0x40, "ed ff ff 35", "cbnz w13, 0x3c"],
  [0x44, "6d 01 40 39", "ldrb w13, [x11]"],
  [0x48, "cd fe ff 35", "cbnz w13, 0x20"],
  [0x4c, "0a 85 00 f8", "str x10, [x8], #8"],
  [0x50, "f1 ff ff 17", "b 0x14"],
  // the NULL behind the environment
  [0x54, "1f 85 00 f8", "str xzr, [x8], #8"],
  // the next entry of the auxiliary vector: tag, value
  [0x58, "2a 35 c1 a8", "ldp x10, x13, [x9], #16"],
  [0x5c, "2b 03 00 10", "adr x11, 0xc0"],
  // its tag in the table of new values?
  [0x60, "6c 39 c1 a8", "ldp x12, x14, [x11], #16"],
  [0x64, "8c 00 00 b4", "cbz x12, 0x74"],
  [0x68, "9f 01 0a eb", "cmp x12, x10"],
  [0x6c, "a1 ff ff 54", "b.ne 0x60"],
  [0x70, "ed 03 0e aa", "mov x13, x14"],
  // to where it belongs now; AT_NULL is the last
  [0x74, "0a 35 81 a8", "stp x10, x13, [x8], #16"],
  [0x78, "0a ff ff b5", "cbnz x10, 0x58"],
  // to ld-musl
  [0x7c, "f0 01 00 58", "ldr x16, 0xb8"],
  [0x80, "00 02 1f d6", "br x16"],
  // what nobody should call: stop
  [0xa0, "00 00 00 00", "udf #0"],
  // _Unwind_RaiseException: _URC_END_OF_STACK, "nobody catches this"
  [0xa8, "a0 00 80 52", "mov w0, #0x5"],
  [0xac, "c0 03 5f d6", "ret"],
  // a TLS descriptor is {this, offset}: the offset from the thread pointer
  [0xb0, "00 04 40 f9", "ldr x0, [x0, #8]"],
  [0xb4, "c0 03 5f d6", "ret"],
  // the entry: rt_sigaction(SIGUSR1, SIG_IGN); the program's own handler comes much later
  [0x160, "40 01 80 d2", "mov x0, #0xa"],
  [0x164, "e1 01 00 10", "adr x1, 0x1a0"],
  [0x168, "02 00 80 d2", "mov x2, #0x0"],
  [0x16c, "03 01 80 d2", "mov x3, #0x8"],
  [0x170, "c8 10 80 d2", "mov x8, #0x86"],
  [0x174, "01 00 00 d4", "svc #0x0"],
  [0x178, "a2 ff ff 17", "b 0x0"],
];

/** The code for each architecture, in ascending order. */
export const stubCode: Readonly<Record<ArchitectureName, readonly Instruction[]>> = { x64, arm64 };
